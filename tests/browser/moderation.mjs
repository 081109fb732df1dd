// What a reader sees of moderation: deleted, muted, put out, banned; in both languages.

import assert from 'node:assert/strict';
import { test } from 'node:test';

/**
 * `visit` opens a page; `ctl` runs wschatctl against its daemon; `unique` makes a text nobody else says; `shot` keeps a
 * picture.
 */
export function moderation({ visit, ctl, unique, shot }) {
  const status = async () => JSON.parse(await ctl('list', '--json')).clients;
  const userOf = async (nick) => (await status()).find((client) => client.nick === nick).user;
  const seqOf = async (text) => {
    const { messages } = JSON.parse(await ctl('history', 'lobby', '--limit', '50', '--json'));
    return messages.find((frame) => frame.payload.text === text).seq;
  };

  test('a deleted message is gone from every page, and stays gone after a reload', async () => {
    const ann = await visit({ nick: 'Writer' });
    const mei = await visit({ nick: '见证人', locale: 'zh-CN', width: 360 });
    const text = unique('something that must go');
    await ann.say(text);
    await mei.heard(text).waitFor();
    await ctl('delete', 'lobby', String(await seqOf(text)));
    for (const { page } of [ann, mei]) await page.locator('.message', { hasText: text }).waitFor({ state: 'detached' });
    await mei.page.reload();
    await mei.light('online');
    await mei.page.locator('.message.removed').last().waitFor();
    assert.equal(await mei.heard(text).count(), 0);
    await shot(mei, 'deleted-360-zh-CN');
  });

  test('who is muted is told so and until when, keeps what was written, and is told the end', async () => {
    const ann = await visit({ nick: 'Loud' });
    const mei = await visit({ nick: '吵闹', locale: 'zh-CN' });
    for (const nick of ['Loud', '吵闹']) {
      await ctl('mute', 'add', `user:${await userOf(nick)}`, '--room', 'lobby', '--for', '10m', '--reason', 'Breathe');
    }
    await ann.line('notice.warn', 'You have been muted').filter({ hasText: 'Breathe' }).waitFor();
    await mei.line('notice.warn', '禁言').waitFor();
    const text = unique('may I speak');
    await ann.page.fill('#text', text);
    await ann.page.press('#text', 'Enter');
    await ann.own(text, 'failed').filter({ hasText: 'You may not write here' }).waitFor();
    await shot(ann, 'muted-1280-en');
    for (const { id } of JSON.parse(await ctl('mute', 'list', '--json')).mutes) await ctl('mute', 'del', String(id));
    await ann.line('notice.warn', 'You may write here again').waitFor();
    await ann.own(text, 'failed').getByRole('button', { name: 'Try again' }).click();
    await ann.own(text, 'kept').waitFor();
    await mei.heard(text).waitFor();
  });

  test('who is banned is told so with the reason and the end, and does not come back', async () => {
    const ann = await visit({ nick: 'Spammer', clock: true });
    const user = await userOf('Spammer');
    await ctl('ban', 'add', `user:${user}`, '--for', '2h', '--reason', 'Spam');
    await ann.light('closed');
    await shot(ann, 'banned-1280-en');
    assert.match(await ann.page.locator('#trouble').innerText(), /banned[^]*Spam/i);
    await ann.page.clock.fastForward(600_000);
    await ann.light('closed');
    assert.equal(ann.sockets, 1);
    for (const { id } of JSON.parse(await ctl('ban', 'list', '--json')).bans) await ctl('ban', 'del', String(id));
  });

  test('when a room is closed the page says which and why', async () => {
    const ann = await visit({ nick: 'Guest of a closed room' });
    const mei = await visit({ nick: '房客', locale: 'zh-CN' });
    await ctl('room', 'close', 'lobby', '--reason', 'Cleaning');
    await ann.page.locator('#trouble', { hasText: 'The room' }).filter({ hasText: 'Cleaning' }).waitFor();
    await mei.page.locator('#trouble', { hasText: '已关闭' }).waitFor();
    await shot(mei, 'room-closed-1280-zh-CN');
    assert.equal(await mei.page.locator('#people li').count(), 0, 'nobody is shown where nobody is');
    await ann.write(unique('to nobody'));
    await ann.page.locator('#limit', { hasText: 'You are in no room' }).waitFor();
    // Coming again is allowed: the room was emptied, not taken away.
    await ann.page.click('#trouble-button');
    await ann.page.locator('#trouble').waitFor({ state: 'hidden' });
    await ann.say(unique('here again'));
    await mei.page.reload();
    await mei.light('online');
  });

  test('a purged room shows nothing of what was said before', async () => {
    const ann = await visit({ nick: 'Archivist' });
    const texts = [unique('first'), unique('second')];
    for (const text of texts) await ann.say(text);
    await ctl('room', 'purge', 'lobby', '--yes');
    for (const text of texts) await ann.page.locator('.message', { hasText: text }).waitFor({ state: 'detached' });
    const after = unique('after');
    await ann.say(after);
    await ann.page.reload();
    await ann.page.locator('.message', { hasText: after }).waitFor();
    for (const text of texts) assert.equal(await ann.page.locator('.message', { hasText: text }).count(), 0);
  });
}
