// The connection alone, with a socket and a clock that the tests move by hand.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { WsChat } from './wschat.js';

/** A WebSocket whose other end is the test. */
class FakeSocket extends EventTarget {
  static all = [];

  constructor(url) {
    super();
    this.url = url;
    this.sent = [];
    this.over = false;
    FakeSocket.all.push(this);
  }

  send(data) {
    assert.ok(!this.over, 'nothing is sent into a closed socket');
    this.sent.push(JSON.parse(data));
  }

  close(code) {
    if (this.over) return;
    this.over = true;
    this.closedWith = code;
  }

  // --- what the test, as the daemon, does ---

  opens() {
    this.dispatchEvent(new Event('open'));
  }

  says(type, payload, seq = 0) {
    this.raw(JSON.stringify({ type, payload, seq }));
  }

  raw(data) {
    this.dispatchEvent(new MessageEvent('message', { data }));
  }

  ends(code, reason = '') {
    this.over = true;
    this.dispatchEvent(Object.assign(new Event('close'), { code, reason }));
  }

  takes(type) {
    return this.sent.filter((frame) => frame.type === type);
  }

  last(type) {
    return this.takes(type).at(-1);
  }
}

/** Lets everything run that waits for no clock. */
const settle = async () => {
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
};

const EVENTS = 'state welcome joined left message event deleted gap outgoing presence typing notice refused'.split(' ');

function make(options = {}) {
  FakeSocket.all = [];
  const chat = new WsChat('wss://chat.test/chat', { WebSocket: FakeSocket, nick: 'Ann', ...options });
  const seen = [];
  for (const type of EVENTS) {
    chat.addEventListener(type, ({ detail }) => {
      seen.push(type === 'outgoing' ? { type, state: detail.state, text: detail.text } : { type, detail });
    });
  }
  const of = (type) => seen.filter((each) => each.type === type);
  return { chat, of };
}

const socket = () => FakeSocket.all.at(-1);

const WELCOME = { client: 'c1', user: 'u1', nick: 'Ann', guest: 'signed', ping_ms: 20_000, limits: { text: 100 } };

/** The daemon's part of a greeting on the newest socket. */
function greet(joined = {}, welcome = {}) {
  const now = socket();
  now.opens();
  const re = now.last('hello').seq;
  now.says('welcome', { ...WELCOME, re, ...welcome });
  const members = [{ user: 'u1', nick: 'Ann' }];
  now.says('joined', { re, room: 'lobby', epoch: 'e1', seq: 0, recovered: false, online: 1, members, ...joined });
  return now;
}

async function online(options, joined) {
  const made = make(options);
  made.chat.connect();
  await settle();
  greet(joined);
  return made;
}

function said(now, seq, text, more = {}) {
  const from = { user: 'u2', nick: 'Bo' };
  now.says('message', { room: 'lobby', id: `m${seq}`, from, text, time: '2026-01-02T03:04:05.678Z', ...more }, seq);
}

/** A test with a clock that stands still until it is moved. */
function timed(name, body) {
  test(name, async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
    try {
      await body(async (ms) => {
        mock.timers.tick(ms);
        await settle();
      });
    } finally {
      mock.timers.reset();
    }
  });
}

timed('hello says who, and after a loss where reading stopped', async (pass) => {
  const { chat } = await online({ guest: 'old', rooms: ['lobby'] }, { seq: 7 });
  const first = socket().last('hello').payload;
  assert.deepEqual(first, { v: 1, agent: 'wschat.js', guest: 'old', nick: 'Ann', rooms: ['lobby'] });
  said(socket(), 8, 'eight');
  socket().ends(1006);
  await pass(1000);
  assert.equal(FakeSocket.all.length, 2);
  greet({ seq: 8, recovered: true });
  const second = socket().last('hello').payload;
  assert.deepEqual(second.resume, { rooms: { lobby: { epoch: 'e1', seq: 8 } } });
  assert.equal(second.guest, 'signed');
  assert.equal(chat.state.name, 'online');
});

timed('each stored frame is told once, and a hole is told as a gap', async () => {
  const { of } = await online({}, { seq: 3 });
  for (const seq of [3, 4, 4, 5, 9, 5, 10]) said(socket(), seq, `text ${seq}`);
  assert.deepEqual(of('message').map((each) => each.detail.seq), [4, 5, 9, 10]);
  assert.deepEqual(of('gap').map((each) => each.detail), [{ room: 'lobby', after: 5, before: 9 }]);
});

timed('what a purge took away is no gap', async () => {
  const { of, chat } = await online({}, { seq: 3 });
  socket().says('deleted', { room: 'lobby', target: 8, all: true }, 9);
  said(socket(), 10, 'text 10');
  assert.deepEqual([of('gap').length, of('deleted').length, chat.rooms.get('lobby').seq], [0, 1, 10]);
});

timed('own messages take their place in the stream', async () => {
  const { chat, of } = await online({}, { seq: 3 });
  chat.send('lobby', 'mine');
  const frame = socket().last('message');
  socket().says('ack', { re: frame.seq, id: 'm4', seq: 4, room: 'lobby' });
  said(socket(), 5, 'after it');
  assert.deepEqual(of('gap'), []);
  assert.deepEqual(of('outgoing').map((each) => each.state), ['waiting', 'sent', 'kept']);
});

timed('what was not acknowledged is sent again as the same message, in order', async (pass) => {
  const { chat } = await online();
  const entries = ['one', 'two', 'three'].map((text) => chat.send('lobby', text));
  assert.deepEqual(socket().takes('message').map((frame) => frame.payload.text), ['one']);
  socket().ends(1006);
  assert.deepEqual(entries.map((entry) => entry.state), ['waiting', 'waiting', 'waiting']);
  entries.push(chat.send('lobby', 'four'));
  await pass(1000);
  greet({ recovered: true });
  for (let seq = 1; seq <= 4; seq += 1) {
    const frame = socket().last('message');
    assert.equal(frame.payload.cid, entries[seq - 1].cid);
    socket().says('ack', { re: frame.seq, id: `m${seq}`, seq, room: 'lobby' });
  }
  assert.deepEqual(entries.map((entry) => [entry.state, entry.seq]), [1, 2, 3, 4].map((seq) => ['kept', seq]));
  assert.equal((await entries[3].done).seq, 4);
  assert.deepEqual(chat.unsent, []);
});

timed('an own message that comes back as missed counts as kept', async (pass) => {
  const { chat, of } = await online();
  const entry = chat.send('lobby', 'arrived unseen');
  socket().ends(1006);
  await pass(1000);
  greet({ recovered: true, seq: 1 });
  said(socket(), 1, 'arrived unseen', { from: { user: 'u1', nick: 'Ann' }, cid: entry.cid });
  assert.equal(entry.state, 'kept');
  const again = socket().last('message');
  socket().says('ack', { re: again.seq, id: 'm1', seq: 1, room: 'lobby' });
  assert.deepEqual([of('message').length, of('gap').length], [0, 0]);
});

timed('a message too old for its cid to be known is not sent again by itself', async (pass) => {
  const { chat } = await online();
  const entry = chat.send('lobby', 'long ago');
  const unsent = chat.send('lobby', 'never left');
  socket().ends(1006);
  await pass(1000);
  await pass(10 * 60_000);
  // Attempts time out meanwhile; the newest one succeeds.
  while (chat.state.name !== 'connecting') await pass(30_000);
  greet({ recovered: true });
  assert.equal(entry.state, 'failed');
  assert.equal(entry.error.code, 'uncertain');
  assert.equal(socket().last('message').payload.text, 'never left');
  assert.equal(unsent.state, 'sent');
});

timed('another user than before does not repeat what may have arrived', async (pass) => {
  const { chat } = await online();
  const entry = chat.send('lobby', 'perhaps there');
  socket().ends(1006);
  await pass(1000);
  greet({}, { user: 'u9' });
  assert.equal(entry.error.code, 'uncertain');
  assert.deepEqual(socket().takes('message'), []);
});

timed('a short refusal is waited out, a long one is told', async (pass) => {
  const { chat } = await online();
  const entry = chat.send('lobby', 'fast');
  const later = chat.send('lobby', 'behind it');
  const refuse = (code, retry_ms) =>
    socket().says('error', { re: socket().last('message').seq, code, message: code, temporary: true, retry_ms });
  refuse('rate_limited', 700);
  await pass(699);
  assert.equal(socket().takes('message').length, 1);
  await pass(1);
  assert.equal(socket().takes('message').length, 2);
  assert.equal(socket().last('message').payload.cid, entry.cid);
  refuse('muted', 600_000);
  assert.deepEqual([entry.state, entry.error.code], ['failed', 'muted']);
  assert.equal(later.state, 'sent');
  chat.resend(entry);
  socket().says('ack', { re: socket().last('message').seq, id: 'm1', seq: 1, room: 'lobby' });
  assert.equal(socket().last('message').payload.cid, entry.cid);
});

timed('a text over the limit never leaves', async () => {
  const { chat } = await online();
  const entry = chat.send('lobby', '长'.repeat(34));
  assert.deepEqual([entry.state, entry.error.code], ['failed', 'too_long']);
  await assert.rejects(entry.done, { code: 'too_long' });
  assert.deepEqual(socket().takes('message'), []);
});

timed('the number of waiting messages is bounded', async () => {
  const { chat } = make();
  for (let i = 0; i < 200; i += 1) assert.equal(chat.send('lobby', 'x').state, 'waiting');
  assert.equal(chat.send('lobby', 'x').error.code, 'too_many_waiting');
});

timed('pings are answered with what they carry', async () => {
  await online();
  socket().says('ping', { t: 42 });
  assert.deepEqual(socket().last('pong'), { type: 'pong', payload: { t: 42 }, seq: 0 });
});

timed('what is not understood breaks nothing', async () => {
  const { chat } = await online();
  for (const data of ['', 'no json', '[]', 'null', '{"type":"message"}', '{"type":"news","payload":{}}', new ArrayBuffer(3)]) {
    socket().raw(data);
  }
  socket().says('presence', { room: 'elsewhere', online: 3 });
  socket().says('ack', { re: 999 });
  said(socket(), 1, 'still here');
  assert.equal(chat.rooms.get('lobby').seq, 1);
});

timed('silence ends in a new connection', async (pass) => {
  const { chat } = await online();
  for (let i = 0; i < 10; i += 1) await pass(5000);
  assert.equal(FakeSocket.all.length, 1);
  await pass(5000);
  assert.equal(FakeSocket.all.length, 2);
  assert.equal(chat.state.name, 'connecting');
  // What the given-up socket says later is nobody's.
  FakeSocket.all[0].ends(1006);
  assert.equal(FakeSocket.all.length, 2);
});

timed('after a sleep it asks before it gives up', async (pass) => {
  const { chat } = await online();
  // The machine sleeps: the clock jumps, the timers do not run in between.
  mock.timers.setTime(Date.now() + 3_600_000);
  await pass(1);
  assert.equal(FakeSocket.all.length, 1);
  assert.equal(socket().takes('ping').length, 1);
  socket().says('pong', {});
  await pass(5000);
  assert.equal(chat.state.name, 'online');
  mock.timers.setTime(Date.now() + 3_600_000);
  await pass(1);
  assert.equal(FakeSocket.all.length, 1);
  await pass(5000);
  assert.equal(FakeSocket.all.length, 2);
});

timed('check() asks a quiet connection, and cuts short a wait that backs off', async (pass) => {
  const { chat } = await online();
  await pass(3000);
  chat.check();
  chat.check();
  assert.equal(socket().takes('ping').length, 1);
  socket().says('pong', {});
  await pass(5000);
  assert.equal(chat.state.name, 'online');
  socket().ends(1006);
  assert.equal(chat.state.name, 'waiting');
  chat.check();
  await settle();
  assert.equal(FakeSocket.all.length, 2);
});

timed('a spread reconnect keeps to its moment', async (pass) => {
  const { chat } = await online();
  socket().says('bye', { code: 1012, reason: 'moving', reconnect: true, after_ms: 8000 });
  socket().ends(1012);
  assert.equal(chat.state.name, 'waiting');
  assert.ok(chat.state.until > Date.now() && chat.state.until <= Date.now() + 8000);
  chat.check();
  await settle();
  assert.equal(FakeSocket.all.length, 1);
  await pass(8000);
  assert.equal(FakeSocket.all.length, 2);
});

timed('a drained daemon is come back to when it lets people in again', async (pass) => {
  const { chat } = await online();
  socket().says('bye', { code: 1012, reason: 'moving', reconnect: true, after_ms: 8000 });
  socket().ends(1012);
  await pass(8000);
  // HTTP 503 is all that a browser is not told: a connection that never opened.
  for (let attempt = 1; attempt <= 12; attempt += 1) {
    assert.equal(chat.state.name, 'connecting');
    socket().ends(1006);
    assert.equal(chat.state.name, 'waiting');
    const wait = chat.state.until - Date.now();
    assert.ok(wait > 0 && wait <= Math.min(30_000, 1000 * 2 ** attempt), `${wait} ms before attempt ${attempt}`);
    await pass(30_000);
  }
  assert.equal(FakeSocket.all.length, 14);
  greet();
  assert.equal(chat.state.name, 'online');
});

timed('a kick ends it, with the reason, until asked', async (pass) => {
  const { chat } = await online();
  socket().says('bye', { code: 4003, reason: 'a long reason', reconnect: false, after_ms: 0 });
  socket().ends(4003, 'a long');
  assert.deepEqual(chat.state, { name: 'closed', code: 4003, reason: 'a long reason' });
  chat.check();
  chat.retryNow();
  await pass(3_600_000);
  assert.equal(FakeSocket.all.length, 1);
  chat.connect();
  await settle();
  assert.equal(FakeSocket.all.length, 2);
});

timed('at once means at once, but not in circles', async () => {
  const { chat } = await online();
  for (let round = 1; round <= 3; round += 1) {
    socket().ends(4200);
    await settle();
    assert.equal(FakeSocket.all.length, round + 1);
    greet({ recovered: true });
  }
  socket().ends(4200);
  await settle();
  assert.equal(chat.state.name, 'waiting');
});

timed('an expired token is asked for again; without a source it ends', async () => {
  let asked = 0;
  await online({ token: async () => `token ${(asked += 1)}` });
  socket().ends(4202);
  await settle();
  socket().opens();
  assert.equal(socket().last('hello').payload.token, 'token 2');

  const { chat } = await online({ token: 'fixed' });
  socket().ends(4202);
  assert.deepEqual([chat.state.name, chat.state.code], ['closed', 4202]);
});

timed('waits grow while nothing answers, and start again after a good session', async (pass) => {
  const { chat } = make();
  chat.connect();
  await settle();
  const longest = [];
  for (let i = 0; i < 7; i += 1) {
    socket().ends(1006);
    longest.push(chat.state.until - Date.now());
    await pass(30_000);
  }
  longest.forEach((ms, i) => assert.ok(ms > 0 && ms <= Math.min(30_000, 1000 * 2 ** i), `wait ${i}: ${ms}`));
  greet();
  for (let i = 0; i < 3; i += 1) {
    await pass(5000);
    socket().says('ping', {});
  }
  socket().ends(1006);
  assert.ok(chat.state.until - Date.now() <= 1000);
});

timed('a connection that never greets is given up', async (pass) => {
  const { chat } = make();
  chat.connect();
  await settle();
  await pass(15_000);
  assert.equal(chat.state.name, 'waiting');
});

timed('a lost stream is told as a gap, an untouched one is not', async (pass) => {
  const { of, chat } = await online({}, { seq: 5 });
  for (const joined of [
    { epoch: 'e1', seq: 5 },
    { epoch: 'e1', seq: 900 },
    { epoch: 'e2', seq: 2 },
  ]) {
    socket().ends(1006);
    await pass(30_000);
    greet({ ...joined, recovered: false });
  }
  assert.deepEqual(of('joined').map((each) => each.detail.gap), [false, false, true, true]);
  said(socket(), 3, 'goes on');
  assert.deepEqual(chat.rooms.get('lobby').seq, 3);
  assert.deepEqual(of('gap'), []);
});

timed('people come and go, and are counted where they are too many', async () => {
  const { chat, of } = await online();
  const room = chat.rooms.get('lobby');
  socket().says('presence', { room: 'lobby', user: 'u2', nick: 'Bo', state: 'join', online: 2 });
  socket().says('presence', { room: 'lobby', user: 'u2', nick: 'Bob', state: 'nick', online: 2 });
  assert.equal(of('presence').at(-1).detail.before, 'Bo');
  assert.deepEqual([...room.members], [['u1', 'Ann'], ['u2', 'Bob']]);
  socket().says('presence', { room: 'lobby', online: 300 });
  assert.deepEqual([room.members, room.online], [null, 300]);
  socket().says('presence', { room: 'lobby', user: 'u3', nick: 'Cy', state: 'leave', online: 199 });
  const asked = socket().last('who');
  socket().says('who', { re: asked.seq, room: 'lobby', members: [{ user: 'u1', nick: 'Ann' }] });
  await settle();
  assert.deepEqual([...room.members], [['u1', 'Ann']]);
});

timed('requests are answered, refused, or lost with the connection', async () => {
  const { chat } = await online();
  const taken = chat.setNick('Bo');
  socket().says('error', { re: socket().last('nick').seq, code: 'nick_taken', message: 'taken', temporary: false });
  await assert.rejects(taken, { code: 'nick_taken', temporary: false });
  const given = chat.setNick('Cy');
  socket().says('ack', { re: socket().last('nick').seq });
  await given;
  assert.equal(chat.nick, 'Cy');
  const page = chat.history('lobby', { before: 9 });
  assert.deepEqual(socket().last('history').payload, { room: 'lobby', limit: 50, before: 9 });
  socket().ends(1006);
  await assert.rejects(page, { code: 'disconnected' });
  await assert.rejects(chat.who('lobby'), { code: 'disconnected' });
});

timed('close() waits for the daemon, and is final', async (pass) => {
  const { chat } = await online();
  const closed = chat.close();
  assert.equal(socket().closedWith, 1000);
  socket().ends(1000);
  await closed;
  await pass(60_000);
  assert.deepEqual([chat.state.name, FakeSocket.all.length], ['closed', 1]);
});
