// The chat page in a headless browser, against the real daemon over TLS.
//
//   WSCHAT_BIN=… WSCHATCTL_BIN=… [SCREENSHOTS=folder] node run.mjs
//
// The tests of the connection module, which need neither, run along.
//
// Each test opens pages of its own and waits for states. A page whose console complains, and with
// that every violation of the Content-Security-Policy, fails the test that opened it.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import '../../clients/js/wschat.test.js';
import { moderation } from './moderation.mjs';
import { Browser, Daemon, PATIENCE, Proxy, project, serveTutorial, until } from './support.mjs';

for (const name of ['WSCHAT_BIN', 'WSCHATCTL_BIN']) {
  if (process.env[name]) continue;
  console.error(`${name} must name the built binary; tests/run sets it.`);
  process.exit(64);
}

const shots = process.env.SCREENSHOTS || fs.mkdtempSync(path.join(os.tmpdir(), 'wschat-shots-'));
fs.mkdirSync(shots, { recursive: true });

let browser;
let daemon;
let tutorial;
const proxies = [];

before(async () => {
  tutorial = await serveTutorial(() => daemon.port);
  daemon = await Daemon.start(
    `[chat]\nallowed_origins = ["${tutorial.origin}"]\n\n[shutdown]\nspread = "1s"\n\n[history]\nstore = "memory"\n`,
  );
  browser = await Browser.launch();
});

afterEach(async (context) => {
  const faults = browser ? await browser.closeAll() : [];
  await Promise.all(proxies.splice(0).map((proxy) => proxy.close()));
  if (context.passed === false && daemon) console.error(`--- the daemon's log\n${daemon.log.slice(-4000)}\n---`);
  assert.deepEqual(faults, [], 'the browser complained');
});

after(async () => {
  await browser?.close();
  await daemon?.remove();
  tutorial?.close();
  console.log(`screenshots: ${shots}`);
});

async function visit(how = {}) {
  const person = await browser.person(`${how.origin ?? daemon.origin}/`, how);
  await person.light('online');
  return person;
}

async function throughProxy() {
  const proxy = await Proxy.to(daemon.port);
  proxies.push(proxy);
  return proxy;
}

let counter = 0;
/** A text that no other test says. */
const unique = (text) => `${text} ${(counter += 1)}`;

test('the page comes with a strict policy and names the socket by its setting', async () => {
  const ann = await visit();
  const policy = ann.answer.headers()['content-security-policy'] ?? '';
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  assert.equal(await ann.page.locator('meta[name="wschat-path"]').getAttribute('content'), '/chat');
  assert.equal(await ann.page.locator('html').getAttribute('lang'), 'en');
});

test('two browsers chat in both directions, in English and in Chinese', async () => {
  const ann = await visit({ nick: 'Ann' });
  const mei = await visit({ nick: '小梅', locale: 'zh-CN' });
  assert.equal(await mei.page.locator('html').getAttribute('lang'), 'zh-CN');
  await ann.page.locator('#light-words').filter({ hasText: 'Online' }).waitFor();
  await mei.page.locator('#light-words').filter({ hasText: '在线' }).waitFor();
  await ann.line('system', '小梅').filter({ hasText: 'joined' }).waitFor();

  const hello = unique('Hello from Ann');
  await ann.say(hello);
  await mei.heard(hello).waitFor();
  const answer = unique('你好，Ann 🌏');
  await mei.say(answer);
  await ann.heard(answer).waitFor();
  assert.match(await ann.heard(answer).innerText(), /小梅/);

  for (const person of [ann, mei]) {
    await person.page.locator('.person', { hasText: '小梅' }).waitFor();
    await person.page.locator('.person', { hasText: 'Ann' }).waitFor();
  }
  await ann.page.locator('#room-count', { hasText: '2 people here' }).waitFor();
  await mei.page.locator('#room-count', { hasText: '2 人在线' }).waitFor();

  await mei.context.close();
  await ann.line('system', '小梅').filter({ hasText: 'left' }).waitFor();
  await ann.page.locator('#room-count', { hasText: '1 person here' }).waitFor();
});

test('who comes later sees what was said', async () => {
  const ann = await visit({ nick: 'Early' });
  const said = [unique('first'), unique('second'), unique('third')];
  for (const text of said) await ann.say(text);
  const late = await visit({ nick: 'Late' });
  await late.heard(said[2]).waitFor();
  const seen = (await late.texts()).filter((text) => said.includes(text));
  assert.deepEqual(seen, said);
  assert.equal(await late.page.locator('.line.gap').count(), 0);
});

test('earlier messages are shown on demand, and the reader stays in place', async () => {
  const other = await Daemon.start('[limits]\nrate = "10000/s"\nburst = 10000\n\n[history]\nstore = "memory"\n');
  try {
    const ann = await visit({ nick: 'Chronicler', origin: other.origin });
    const said = Array.from({ length: 120 }, (_, i) => `entry ${i + 1}`);
    for (const text of said) await ann.write(text);
    await ann.page.locator('.message.own[data-state="kept"]').nth(119).waitFor();
    const late = await visit({ nick: 'Reader', origin: other.origin });
    await late.heard('entry 120').waitFor();
    assert.deepEqual(await late.texts(), said.slice(70));
    const earlier = late.page.locator('.earlier');
    await earlier.scrollIntoViewIfNeeded();
    const place = (text) =>
      late.page.locator('.message .text', { hasText: text }).evaluate((node) => Math.round(node.getBoundingClientRect().top));
    const before = await place('entry 75');
    await earlier.click();
    await late.heard('entry 21').waitFor();
    assert.deepEqual(await late.texts(), said.slice(20));
    assert.ok(Math.abs((await place('entry 75')) - before) <= 60, 'what was being read has not jumped away');
    await earlier.click();
    await late.page.locator('.message .text').nth(119).waitFor();
    await earlier.waitFor({ state: 'hidden' });
    assert.deepEqual(await late.texts(), said);
    // Who reads far up is not dragged down by what is said below, but told of it.
    await ann.say('the newest');
    await late.page.locator('#jump.fresh').click();
    await late.page.locator('#jump').waitFor({ state: 'hidden' });
    assert.ok(await late.heard('the newest').evaluate((node) => node.getBoundingClientRect().bottom <= innerHeight));
    await Promise.all([ann, late].map((person) => person.context.close()));
  } finally {
    await other.remove();
  }
});

test('Enter sends, Shift+Enter breaks the line, Enter while composing does neither', async () => {
  const ann = await visit({ nick: 'Writer' });
  const text = unique('two lines');
  await ann.page.fill('#text', text);
  await ann.page.press('#text', 'Shift+Enter');
  await ann.page.locator('#text').pressSequentially('below');
  await ann.page.locator('#text').evaluate((field) => {
    const composing = { key: 'Enter', bubbles: true, cancelable: true };
    field.dispatchEvent(new KeyboardEvent('keydown', { ...composing, isComposing: true }));
    field.dispatchEvent(new KeyboardEvent('keydown', { ...composing, keyCode: 229 }));
  });
  assert.equal(await ann.page.inputValue('#text'), `${text}\nbelow`);
  assert.equal(await ann.own(text, 'kept').count(), 0);
  await ann.page.press('#text', 'Enter');
  await ann.own(text, 'kept').waitFor();
  assert.equal(await ann.page.inputValue('#text'), '');
  assert.equal(await ann.own(text, 'kept').locator('.text').textContent(), `${text}\nbelow`);
});

test('who is kicked is told so, with the reason, and stays away until asked', async () => {
  const ann = await visit({ nick: 'Rude', clock: true });
  const mei = await visit({ nick: 'Polite' });
  await ann.say(unique('something rude'));
  await daemon.ctl('kick', '--nick', 'Rude', '--reason', 'Please read the rules', '--yes');
  await ann.light('closed');
  const trouble = ann.page.locator('#trouble');
  assert.match(await trouble.innerText(), /You were removed from the chat/);
  assert.match(await trouble.innerText(), /Please read the rules/);
  assert.equal(await trouble.getAttribute('role'), 'alert');
  await mei.line('system', 'Rude').filter({ hasText: 'left' }).waitFor();

  // Ten minutes later it still has not come back by itself.
  await ann.page.clock.fastForward(600_000);
  await ann.light('closed');
  assert.equal(ann.sockets, 1);
  assert.deepEqual(JSON.parse(await daemon.ctl('list', '--nick', 'Rude', '--json')).clients, []);

  await ann.page.click('#trouble-button');
  await ann.light('online');
  assert.equal(ann.sockets, 2);
  assert.equal(await trouble.isVisible(), false);
});

moderation({
  visit,
  unique,
  ctl: (...words) => daemon.ctl(...words),
  shot: (person, name) => person.page.screenshot({ path: path.join(shots, `${name}.png`) }),
});

test('a kick with --reconnect comes back by itself', async () => {
  const ann = await visit({ nick: 'Mover' });
  await daemon.ctl('kick', '--nick', 'Mover', '--reconnect', '--yes');
  await until('a second connection', () => ann.sockets === 2);
  await ann.light('online');
  await ann.say(unique('back again'));
  assert.equal(await ann.page.locator('#self-nick').textContent(), 'Mover');
});

test('a notice reaches everybody, as a banner and as a line', async () => {
  const ann = await visit({ nick: 'Reader' });
  const mei = await visit({ nick: '读者', locale: 'zh-CN', width: 360 });
  const warning = unique('The chat restarts at 18:00');
  await daemon.ctl('notice', warning, '--level', 'warn');
  for (const person of [ann, mei]) {
    await person.page.locator('#banner[data-level="warn"]', { hasText: warning }).waitFor();
    await person.line('notice.warn', warning).waitFor();
  }
  // What is only for information does not hide a warning that nobody has put away.
  const aside = unique('By the way');
  await daemon.ctl('notice', aside);
  await ann.line('notice.info', aside).waitFor();
  await ann.page.locator('#banner[data-level="warn"]', { hasText: warning }).waitFor();
  await ann.page.click('#banner-close');
  const news = unique('All is well');
  await daemon.ctl('notice', news);
  await ann.page.locator('#banner[data-level="info"]', { hasText: news }).waitFor();
  await ann.page.click('#banner-close');
  assert.equal(await ann.page.locator('#banner').isVisible(), false);
});

test('the daemon is restarted: both are back, and what was written meanwhile arrives', async () => {
  const ann = await visit({ nick: 'Patient', mayLose: true });
  const mei = await visit({ nick: '耐心', locale: 'zh-CN', mayLose: true });
  await ann.say(unique('before the restart'));
  const end = await daemon.down();
  assert.deepEqual(end, { code: 0, signal: null });
  for (const person of [ann, mei]) {
    await until('the page to notice', async () => (await person.page.locator('#light').getAttribute('data-state')) !== 'online');
  }
  const text = unique('written while it was away');
  await ann.write(text);
  await ann.own(text, 'pending').waitFor();
  await daemon.up();
  await ann.light('online');
  await mei.light('online');
  await ann.own(text, 'kept').waitFor();
  await mei.heard(text).waitFor();
  assert.equal(await mei.heard(text).count(), 1);
  assert.equal(await ann.page.locator('#self-nick').textContent(), 'Patient');
  const answer = unique('回来了');
  await mei.say(answer);
  await ann.heard(answer).waitFor();
});

test('after a cut, what was missed comes once and in order, and nothing is doubled', async () => {
  const proxy = await throughProxy();
  const ann = await visit({ nick: 'Train', origin: proxy.origin, mayLose: true });
  const mei = await visit({ nick: 'Station' });
  const first = unique('before the tunnel');
  await mei.say(first);
  await ann.heard(first).waitFor();
  proxy.cut();
  await ann.light('waiting');
  await ann.page.locator('#light-count:not(:empty)').waitFor({ state: 'attached' });
  const missed = [unique('in the tunnel'), unique('still in it'), unique('nearly out')];
  for (const text of missed) await mei.say(text);
  const mine = unique('from inside the tunnel');
  await ann.write(mine);
  await ann.own(mine, 'pending').waitFor();
  proxy.mend();
  await ann.light('online');
  await ann.own(mine, 'kept').waitFor();
  await mei.heard(mine).waitFor();
  await ann.heard(missed[2]).waitFor();
  const of = [first, ...missed, mine];
  assert.deepEqual((await ann.texts()).filter((text) => of.includes(text)), of);
  assert.deepEqual((await mei.texts()).filter((text) => of.includes(text)), of);
  assert.equal(await ann.page.locator('.line.gap').count(), 0);
  // The user was away for a moment only, so nobody was told.
  assert.equal(await mei.line('system', 'Train').count(), 0);
});

test('a name is chosen, told to the others, and remembered', async () => {
  const ann = await visit();
  const mei = await visit({ nick: 'Witness' });
  await ann.page.locator('#hint').waitFor();
  await ann.page.click('#hint-choose');
  await ann.page.fill('#nick-input', 'Zoë 佐伊');
  await ann.page.press('#nick-input', 'Enter');
  await ann.page.locator('#self-nick', { hasText: 'Zoë 佐伊' }).waitFor();
  assert.equal(await ann.page.locator('#hint').isVisible(), false);
  await mei.line('system', 'is now called').filter({ hasText: 'Zoë 佐伊' }).waitFor();
  await ann.page.reload();
  await ann.light('online');
  assert.equal(await ann.page.locator('#self-nick').textContent(), 'Zoë 佐伊');
});

test('a taken or impossible name is explained', async () => {
  await visit({ nick: 'Owner' });
  const mei = await visit();
  await mei.rename('oWNER');
  await mei.page.locator('#nick-error', { hasText: 'is taken by somebody else' }).waitFor();
  await mei.page.fill('#nick-input', 'n'.repeat(40));
  await mei.page.click('#nick-save');
  await mei.page.locator('#nick-error', { hasText: 'cannot be used' }).waitFor();
  await mei.page.click('#nick-cancel');

  const late = await visit({ nick: 'OWNER', locale: 'zh-CN' });
  await late.page.locator('#banner', { hasText: '已有人使用' }).waitFor();
  const given = await late.page.locator('#self-nick').textContent();
  assert.notEqual(given.toLowerCase(), 'owner');
  assert.match(await late.page.locator('#banner').innerText(), new RegExp(given));
});

test('a message over the limit is explained before it is sent', async () => {
  const ann = await visit({ nick: 'Novelist' });
  const long = '长'.repeat(1400);
  await ann.page.fill('#text', long);
  await ann.page.locator('#limit.over', { hasText: '4,200 of 4,096 bytes' }).waitFor();
  assert.equal(await ann.page.locator('#text').getAttribute('aria-invalid'), 'true');
  await ann.page.press('#text', 'Enter');
  assert.equal(await ann.page.locator('.message.own').count(), 0);
  assert.equal(await ann.page.inputValue('#text'), long);
  const fits = '长'.repeat(1365);
  await ann.page.fill('#text', fits);
  await ann.page.locator('#limit:not(.over)', { hasText: '1 bytes left' }).waitFor();
  await ann.page.press('#text', 'Enter');
  await ann.own(fits, 'kept').waitFor();
});

test('markup is text, addresses are safe links', async () => {
  const ann = await visit({ nick: '<b>Bold</b>' });
  const mei = await visit({ nick: 'Careful' });
  const evil = unique('<img src=x onerror="document.title=1"><script>document.title=2</script>');
  await ann.say(evil);
  await mei.heard(evil).waitFor();
  assert.equal(await mei.heard(evil).locator('.text').textContent(), evil);
  assert.equal(await mei.heard(evil).locator('.text *').count(), 0);
  assert.equal(await mei.page.title(), 'wschat');
  await mei.page.locator('.person', { hasText: '<b>Bold</b>' }).waitFor();
  assert.equal(await mei.page.locator('.person b').count(), 0);

  const links = unique('see https://example.org/a_(b)?x=1&y=2. Not javascript:alert(1) 也看 http://例子.example/路径。');
  await ann.say(links);
  await mei.heard(links).waitFor();
  const found = await mei.heard(links).locator('.text a').evaluateAll((all) => all.map((a) => [a.textContent, a.protocol, a.rel]));
  assert.deepEqual(
    found.map(([text, protocol]) => [text, protocol]),
    [
      ['https://example.org/a_(b)?x=1&y=2', 'https:'],
      ['http://例子.example/路径', 'http:'],
    ],
  );
  for (const [, , rel] of found) assert.match(rel, /noopener/);
});

test('many messages at once are all kept, in their order', async () => {
  const ann = await visit({ nick: 'Fast' });
  const mei = await visit({ nick: 'Listener' });
  // More than the burst, so the daemon says rate_limited and the page waits as it is told.
  const said = Array.from({ length: 26 }, () => unique('quick'));
  for (const text of said) await ann.write(text);
  await ann.own(said.at(-1), 'kept').waitFor();
  await mei.heard(said.at(-1)).waitFor();
  assert.equal(await ann.page.locator('.message.own[data-state="failed"]').count(), 0);
  assert.deepEqual((await mei.texts()).filter((text) => said.includes(text)), said);
});

/** Stands between page and daemon and lets `change` alter, answer or swallow (null) what the daemon says. */
function overhear(change) {
  return (near, far) => {
    near.onMessage((data) => far.send(data));
    far.onMessage((data) => {
      const frame = change(JSON.parse(data));
      if (frame) near.send(JSON.stringify(frame));
    });
  };
}

test('a refused message says why, and is tried again or discarded', async () => {
  let refuse = true;
  const wire = (near, far) => {
    far.onMessage((data) => near.send(data));
    near.onMessage((data) => {
      const { type, payload, seq } = JSON.parse(data);
      if (type !== 'message' || !refuse) return far.send(data);
      const error = { re: seq, code: 'muted', message: `no ${payload.text}`, temporary: false };
      return near.send(JSON.stringify({ type: 'error', payload: error, seq: 0 }));
    });
  };
  const ann = await visit({ nick: 'Muted', wire });
  const mei = await visit({ nick: 'Hearer' });
  const [wanted, unwanted] = [unique('please hear me'), unique('forget this')];
  await ann.write(wanted);
  await ann.own(wanted, 'failed').filter({ hasText: 'You may not write here at the moment.' }).waitFor();
  await ann.write(unwanted);
  await ann.own(unwanted, 'failed').getByRole('button', { name: 'Discard' }).click();
  assert.equal(await ann.page.locator('.message').filter({ hasText: unwanted }).count(), 0);
  refuse = false;
  await ann.own(wanted, 'failed').getByRole('button', { name: 'Try again' }).click();
  await ann.own(wanted, 'kept').waitFor();
  await mei.heard(wanted).waitFor();
  assert.equal(await mei.heard(unwanted).count(), 0);
});

test('each end is told in plain words, and a way back is offered where there is one', async () => {
  const ends = [
    [1000, 'The connection was ended.', '连接已结束。', true],
    [1002, 'a fault in what was sent', '发送的数据有误', true],
    [1003, 'a fault in what was sent', '发送的数据有误', true],
    [1007, 'a fault in what was sent', '发送的数据有误', true],
    [1009, 'a message was too long', '消息过长', true],
    [4001, 'You are not signed in.', '你尚未登录。', false],
    [4002, 'The connection was ended.', '连接已结束。', true],
    [4003, 'You were removed from the chat.', '你已被移出聊天。', true],
    [4004, 'You are banned from this chat.', '你已被禁止进入此聊天。', false],
    [4005, 'You are connected somewhere else.', '你已在别处连接。', true],
    [4202, 'Your sign-in has ended.', '你的登录已过期。', false],
  ];
  for (const [language, locale] of [
    [1, 'en-GB'],
    [2, 'zh-CN'],
  ]) {
    let near;
    const ann = await visit({
      locale,
      wire: (page, far) => {
        near = page;
        page.onMessage((data) => far.send(data));
        far.onMessage((data) => page.send(data));
      },
    });
    for (const end of ends) {
      const [code, , , back] = end;
      await near.close({ code, reason: `because ${code}` });
      await ann.light('closed');
      const told = await ann.page.locator('#trouble').innerText();
      assert.ok(told.includes(end[language]), `${code}: ${told}`);
      assert.ok(told.includes(`because ${code}`), `${code}: ${told}`);
      assert.equal(await ann.page.locator('#trouble-button').isVisible(), back, `${code}`);
      if (back) await ann.page.click('#trouble-button');
      else await ann.page.reload();
      await ann.light('online');
    }
  }
});

test('a gap is shown where the daemon could not fill it', async () => {
  let lost = false;
  const ann = await visit({
    nick: 'Gapped',
    wire: overhear((frame) => {
      if (frame.type === 'joined' && lost) Object.assign(frame.payload, { recovered: false, epoch: 'another' });
      return frame;
    }),
  });
  await ann.say(unique('before the gap'));
  lost = true;
  await daemon.ctl('kick', '--nick', 'Gapped', '--reconnect', '--yes');
  await ann.line('gap', 'Messages may be missing here').waitFor();
  const text = unique('after the gap');
  await ann.say(text);
  const below = await ann.own(text, 'kept').evaluate((node) => {
    const gap = document.querySelector('.line.gap');
    return Boolean(gap.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
  });
  assert.ok(below, 'what comes after the gap stands below it');
});

test('where there are too many people to list, they are counted', async () => {
  const ann = await visit({
    wire: overhear((frame) => {
      if (frame.type === 'joined') {
        delete frame.payload.members;
        frame.payload.online = 1234;
      }
      return frame;
    }),
  });
  await ann.page.locator('#room-count', { hasText: '1,234 people here' }).waitFor();
  await ann.page.locator('#people-note', { hasText: 'Too many people' }).waitFor();
  assert.equal(await ann.page.locator('.person').count(), 0);
});

test('a browser that refuses storage still chats', async () => {
  const ann = await browser.person('about:blank', { nick: null });
  await ann.page.addInitScript(() => {
    Object.defineProperty(window, 'localStorage', {
      get() {
        throw new DOMException('refused', 'SecurityError');
      },
    });
  });
  await ann.page.goto(`${daemon.origin}/`);
  await ann.light('online');
  await ann.say(unique('remembered by nobody'));
});

for (const width of [320, 360]) {
  test(`on a phone of ${width} px nothing is wider than the screen`, async () => {
    const ann = await visit({ nick: 'W'.repeat(32), width });
    const mei = await visit({ nick: 'm'.repeat(32) });
    const long = unique('Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz'.repeat(6));
    await mei.say(long);
    await ann.heard(long).waitFor();
    await ann.say(unique('x'.repeat(500)));
    await daemon.ctl('notice', unique('y'.repeat(200)), '--level', 'warn');
    await ann.page.locator('#banner', { hasText: 'yyy' }).waitFor();
    const wide = await ann.page.evaluate(() => {
      const seen = [document.documentElement, ...document.querySelectorAll('.log, .main, .top, .composer, .banner')];
      return seen.filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.className || node.tagName);
    });
    assert.deepEqual(wide, []);
    await ann.page.tap('#menu');
    await ann.page.locator('.person', { hasText: 'mmm' }).waitFor();
    await ann.page.keyboard.press('Escape');
    await ann.page.locator('.person', { hasText: 'mmm' }).waitFor({ state: 'hidden' });
  });
}

test('the page works where the settings put it', async () => {
  const other = await Daemon.start('[paths]\npage = "/chat-page/"\njson = "/socket"\n\n[history]\nstore = "memory"\n');
  try {
    const ann = await browser.person(`${other.origin}/chat-page/`, { nick: 'Elsewhere' });
    await ann.light('online');
    await ann.say(unique('from another path'));
    await ann.context.close();
  } finally {
    await other.remove();
  }
});

test("the tutorials' page works unchanged", async () => {
  const ann = await visit({ nick: 'Modern' });
  const old = await browser.person(`${tutorial.origin}/`, { clock: true });
  const connected = old.page.locator('#status', { hasText: '已连接' });
  await connected.waitFor();

  const hello = unique('hello, tutorial');
  await ann.say(hello);
  await old.page.locator('.line', { hasText: hello }).waitFor();
  assert.equal(await old.page.locator('.line', { hasText: hello }).textContent(), `Modern: ${hello}`);
  const answer = unique('你好 from the tutorial');
  await old.page.fill('#input', answer);
  await old.page.click('#button');
  await ann.heard(answer).waitFor();
  // Its own text is not sent back to it: the one line is the one that the page itself wrote.
  await ann.say(unique('after it'));
  await old.page.locator('.line', { hasText: 'after it' }).waitFor();
  assert.equal(await old.page.locator('.line', { hasText: answer }).count(), 1);

  await daemon.ctl('kick', '--dialect', 'text', '--reconnect', '--yes');
  await old.page.locator('#status', { hasText: '连接已断开' }).waitFor();
  await old.page.clock.fastForward(3000);
  await connected.waitFor();
  assert.equal(old.sockets, 2);
});

test('every text of the page exists in both languages', async () => {
  const ann = await visit();
  const kinds = await ann.page.evaluate(async () => {
    const shape = async (file) => {
      const texts = (await import(new URL(`assets/${file}`, location.href).href)).default;
      return Object.entries(texts).map(([key, text]) => `${key}: ${typeof text} ${text.length > 0}`).sort();
    };
    return { en: await shape('en.js'), zh: await shape('zh-CN.js') };
  });
  const keyAndKind = (line) => line.replace(/ (true|false)$/, '');
  assert.deepEqual(kinds.en.map(keyAndKind), kinds.zh.map(keyAndKind));
  const known = new Set(kinds.en.map((line) => line.split(':')[0]));
  const source = (name) => fs.readFileSync(path.join(project, 'page', name), 'utf8');
  const used = new Set();
  for (const [, key] of source('index.html').matchAll(/data-t(?:-\w+)?="(\w+)"/g)) used.add(key);
  for (const name of ['chat.js', 'log.js', 'i18n.js']) {
    for (const [, key] of source(name).matchAll(/\bt\('(\w+)'/g)) used.add(key);
    for (const [, key] of source(name).matchAll(/'(\w+(?:Title|Text))'/g)) used.add(key);
  }
  assert.ok(used.size > 40, 'the search for keys finds them');
  assert.deepEqual([...used].filter((key) => !known.has(key)), []);
});

test('each close code leads to what the protocol says', async () => {
  const ann = await visit();
  const steps = await ann.page.evaluate(async () => {
    const { afterClose, backOff } = await import(new URL('assets/wschat.js', location.href).href);
    const half = () => 0.5;
    const step = (code, bye = null) => {
      const next = afterClose(code, bye, half);
      return next.ms === undefined ? next.step : `${next.step} ${next.ms}`;
    };
    const codes = [
      1000, 1001, 1002, 1003, 1005, 1006, 1007, 1009, 1011, 1012, 1013, 4001, 4002, 4003, 4004, 4005, 4101, 4102, 4200,
      4201, 4202, 4999,
    ];
    return {
      plain: Object.fromEntries(codes.map((code) => [code, step(code)])),
      spread: [1001, 1012].map((code) => step(code, { reconnect: true, after_ms: 4000 })),
      busy: [1011, 1013, 4101, 4102].map((code) => step(code, { reconnect: true, after_ms: 4000 })),
      away: step(4777, { reconnect: false }),
      own: step(4777, { reconnect: true, after_ms: 2000 }),
      invited: step(4003, { reconnect: true, after_ms: 2000 }),
      waits: [0, 1, 2, 3, 4, 5, 6, 60].map((attempt) => backOff(attempt, () => 1)),
    };
  });
  const stop = [1000, 1002, 1003, 1007, 1009, 4001, 4002, 4003, 4004, 4005];
  const backOff = [1001, 1005, 1006, 1011, 1012, 1013, 4101, 4102, 4999];
  const wanted = Object.fromEntries([
    ...stop.map((code) => [code, 'stop']),
    ...backOff.map((code) => [code, 'back-off']),
    [4200, 'now'],
    [4201, 'now'],
    [4202, 'token'],
  ]);
  assert.deepEqual(steps.plain, wanted);
  assert.deepEqual(steps.spread, ['after 2000', 'after 2000']);
  assert.deepEqual(steps.busy, ['back-off', 'back-off', 'back-off', 'back-off']);
  assert.equal(steps.own, 'after 1000');
  assert.equal(steps.away, 'stop');
  assert.equal(steps.invited, 'after 1000');
  assert.deepEqual(steps.waits, [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
});

test('screenshots of each state', { timeout: 6 * PATIENCE }, async () => {
  const speaker = await visit({ nick: 'Mei Lin' });
  await speaker.say('Good morning! The new timetable is at https://example.org/timetable');
  await speaker.say('Tell me if anything is missing.');
  let number = 0;
  for (const locale of ['en-GB', 'zh-CN']) {
    for (const dark of [false, true]) {
      for (const width of [360, 1280]) {
        const proxy = await throughProxy();
        const nick = `Guest ${(number += 1)}`;
        const person = await visit({ nick, locale, dark, width, origin: proxy.origin, mayLose: true });
        const save = (state) =>
          person.page.screenshot({ path: path.join(shots, `${state}-${locale}-${dark ? 'dark' : 'light'}-${width}.png`) });
        await person.heard('Tell me if anything').first().waitFor();
        await person.say(locale === 'en-GB' ? 'Looks complete to me, thanks.' : '看起来很完整，谢谢！');
        await save('connected');
        proxy.cut();
        await person.light('waiting');
        const text = locale === 'en-GB' ? 'See you at noon.' : '中午见。';
        await person.write(text);
        await person.own(text, 'pending').waitFor();
        await person.light('waiting');
        await save('reconnecting');
        proxy.mend();
        await person.light('online');
        await person.own(text, 'kept').waitFor();
        await daemon.ctl('kick', '--nick', nick, '--reason', 'The lesson is over', '--yes');
        await person.light('closed');
        await save('kicked');
      }
    }
  }
});
