// The connection to a wschat daemon: hello, rooms, messages that are sent until they are kept,
// heartbeat, and what to do after each way in which a connection can end.
//
// It owns the WebSocket and everything that must survive its loss: where each room was read up to,
// the messages not yet acknowledged, the guest string. It refuses to own anything that is seen:
// texts, lists on a screen and storage belong to whoever listens to its events.
//
// Events (`detail` in parentheses):
//   state     ({name, ...}) `connecting`; `online`; `waiting` (until, code, reason); `closed` (code, reason)
//   welcome   (payload) who this client is now
//   joined    (payload, again, gap) a room was entered; `again`: it had been entered before
//   left      (payload) `re` is 0 where an operator has closed the room
//   message   (payload, seq) · event (payload, seq) · deleted (payload, seq): live or missed ones, once each
//   gap       (room, after, before) numbers that were skipped
//   outgoing  (an outgoing message) its `state` has changed
//   presence, typing, notice, muted (payload)
//   refused   (code, message, of) the daemon said no to a frame that nobody waits for

/** What a client of the daemon may keep waiting to be sent; more are refused at once. */
const OUTBOX_MAX = 200;
/** From the call of `new WebSocket` to `welcome`. */
const CONNECT_MS = 15_000;
/** A message without an answer for this long means a connection that only looks alive. */
const ACK_MS = 30_000;
/** How long a probe may stay unanswered. */
const PROBE_MS = 5_000;
/** The daemon knows a `cid` again for ten minutes; this stays clear of the edge. */
const CID_MS = 9 * 60_000;
const BACKOFF_MAX_MS = 30_000;
/** More immediate reconnects in a row than this, without a lasting session, back off instead. */
const AT_ONCE_MAX = 3;
/** A session of this length is a good one: the count of attempts starts again. */
const SETTLED_MS = 10_000;
/** A temporary refusal with a longer wait than this is told to the user instead of being waited out. */
const RETRY_MAX_MS = 10_000;
const RETRIES_MAX = 8;
/** Used until `welcome` names it. */
const PING_MS = 25_000;

const STOP = new Set([1000, 1002, 1003, 1007, 1009, 4001, 4002, 4003, 4004, 4005]);
const AT_ONCE = new Set([4200, 4201]);
const BACK_OFF = new Set([1006, 1011, 1013, 4101, 4102]);

/**
 * What to do after a connection has ended: the closing table of the protocol.
 * A `bye` said by the daemon decides whether to come back, and when after a code that the table
 * does not know: an operator may close with one of their own.
 * @param {number} code of the close frame; 1006 where there was none
 * @param {{reconnect?: boolean, after_ms?: number}|null} bye the payload of `bye`, if one was said
 * @param {() => number} random in (0, 1]
 * @returns {{step: 'stop'|'token'|'now'|'back-off'} | {step: 'after', ms: number}}
 */
export function afterClose(code, bye, random) {
  if (code === 4202) return { step: 'token' };
  if (bye?.reconnect === false) return { step: 'stop' };
  if (STOP.has(code) && bye?.reconnect !== true) return { step: 'stop' };
  if (AT_ONCE.has(code)) return { step: 'now' };
  if (bye?.after_ms > 0 && !BACK_OFF.has(code)) return { step: 'after', ms: random() * bye.after_ms };
  return { step: 'back-off' };
}

/** Milliseconds before attempt number `attempt` (from 0): 1, 2, 4 … 30 s times a random number in (0, 1]. */
export function backOff(attempt, random) {
  return Math.min(BACKOFF_MAX_MS, 1000 * 2 ** Math.min(attempt, 10)) * random();
}

/** The length of a text in UTF-8 bytes, the measure of `limits.text`. */
export function utf8Length(text) {
  return new TextEncoder().encode(text).length;
}

/** The daemon refused a request, or the connection went before it answered (`disconnected`). */
export class WsChatError extends Error {
  constructor(code, message, { temporary = false, retryMs = null } = {}) {
    super(message || code);
    this.name = 'WsChatError';
    this.code = code;
    this.temporary = temporary;
    this.retryMs = retryMs;
  }
}

export class WsChat extends EventTarget {
  /**
   * @param {string|URL} url ws:// or wss://
   * @param {object} [options]
   * @param {string} [options.nick] the wished-for nick
   * @param {string} [options.guest] what an earlier `welcome` gave
   * @param {string|(() => string|Promise<string>)} [options.token] asked again after each expiry
   * @param {string[]} [options.rooms] instead of the daemon's default rooms
   * @param {string} [options.agent] names this program to operators
   * @param {typeof WebSocket} [options.WebSocket] where there is no global one
   */
  constructor(url, options = {}) {
    super();
    this.url = String(url);
    this.wishedNick = options.nick || null;
    this.guest = options.guest || null;
    /** The last `welcome`, or null before the first. */
    this.welcome = null;
    /** name -> {name, epoch, seq, joined, online, members: Map(user -> nick) or null above the limit} */
    this.rooms = new Map();
    this.state = { name: 'closed', code: 1000, reason: '' };
    this.#token = options.token ?? null;
    this.#wanted = options.rooms ? new Set(options.rooms) : null;
    this.#agent = options.agent || 'wschat.js';
    this.#Socket = options.WebSocket || globalThis.WebSocket;
  }

  #token;
  #wanted;
  #agent;
  #Socket;
  #socket = null;
  #bye = null;
  #seq = 0;
  #helloSeq = 0;
  #requests = new Map();
  #outbox = [];
  #attempt = 0;
  #atOnce = 0;
  #heard = 0;
  #welcomedAt = 0;
  #timers = {};
  #closing = null;

  get user() {
    return this.welcome?.user ?? null;
  }

  get nick() {
    return this.welcome?.nick ?? null;
  }

  /** Messages not yet kept, in the order in which they will be sent. */
  get unsent() {
    return [...this.#outbox];
  }

  /** Connects, also after a close that ended for good. Does nothing where it is under way already. */
  connect() {
    if (this.#socket || this.state.name === 'connecting') return;
    this.#attempt = 0;
    this.#atOnce = 0;
    this.#open();
  }

  /** Ends the connection and does not come back. Resolves when the daemon has closed too. */
  close() {
    const socket = this.#socket;
    this.#clearTimers();
    if (!socket) {
      if (this.state.name !== 'closed') this.#ended(1000, '');
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      this.#closing = resolve;
      this.#timer('connect', 2000, () => this.#lost(socket, 1000, ''));
      socket.close(1000);
    });
  }

  /**
   * Looks whether the connection is still there: to be called when the network came back, the page
   * became visible, or the machine woke up. Cuts short a wait that only backs off.
   */
  check() {
    if (this.state.name === 'waiting' && !this.state.spread) {
      this.#open();
    } else if (this.state.name === 'online' && Date.now() - this.#heard > 2000) {
      this.#probe();
    }
  }

  /** Tries now instead of at the end of the wait. */
  retryNow() {
    if (this.state.name === 'waiting') this.#open();
  }

  /**
   * Sends a message, now or as soon as there is a connection, again after a loss, until the daemon
   * says that it is kept. Returns the outgoing message: {cid, room, text, time, state, seq, error},
   * `state` being `waiting`, `sent`, `kept` or `failed`, and `done`, a promise of the kept message.
   */
  send(room, text) {
    const entry = { cid: newCid(), room, text, time: new Date(), state: 'waiting', seq: 0, error: null };
    entry.done = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    // Who only watches the `outgoing` events needs no handler on the promise.
    entry.done.catch(() => {});
    this.#enqueue(entry);
    return entry;
  }

  /** Tries a failed message again, as the same message: it is never kept twice. */
  resend(entry) {
    if (entry.state !== 'failed') return;
    entry.error = null;
    entry.retries = 0;
    entry.sentAt = 0;
    this.#enqueue(entry);
  }

  join(room, history = 0) {
    this.#want().add(room);
    return this.#request('join', history ? { room, history } : { room });
  }

  leave(room) {
    this.#want().delete(room);
    return this.#request('leave', { room });
  }

  /** Stored messages before or after a number, or the newest. Resolves to {room, epoch, messages, more}. */
  history(room, range = {}) {
    return this.#request('history', { room, limit: 50, ...range });
  }

  who(room) {
    return this.#request('who', { room }).then((payload) => {
      const held = this.rooms.get(room);
      if (held && Array.isArray(payload.members)) held.members = memberMap(payload.members);
      return payload;
    });
  }

  /** Asks for another nick. Rejects with `nick_taken` or `nick_invalid`. */
  setNick(nick) {
    return this.#request('nick', { nick }).then((payload) => {
      this.wishedNick = nick;
      if (this.welcome) this.welcome.nick = nick;
      for (const room of this.rooms.values()) if (room.members?.has(this.user)) room.members.set(this.user, nick);
      return payload;
    });
  }

  /** Takes a message away: one of one's own, or as a moderator anybody's. */
  delete(room, target) {
    return this.#request('delete', { room, target });
  }

  /** As a moderator: the user may not write in the room, for so many milliseconds or until unmuted. */
  mute(room, user, { forMs = null, reason = '' } = {}) {
    return this.#request('mute', { room, user, ...(forMs ? { for_ms: forMs } : {}), ...(reason ? { reason } : {}) });
  }

  unmute(room, user) {
    return this.#request('unmute', { room, user });
  }

  typing(room, on) {
    if (this.state.name === 'online') this.#write('typing', { room, on });
  }

  // --- the socket ---

  async #open() {
    this.#clearTimers();
    this.#setState({ name: 'connecting', attempt: this.#attempt });
    let token = null;
    try {
      token = typeof this.#token === 'function' ? await this.#token() : this.#token;
    } catch {
      this.#wait(backOff(this.#attempt++, random), { code: 4001, reason: '' });
      return;
    }
    if (this.state.name !== 'connecting' || this.#socket) return;
    let socket;
    try {
      socket = new this.#Socket(this.url);
    } catch (error) {
      // An address that the browser refuses will be refused again.
      this.#ended(1006, String(error.message || error));
      return;
    }
    this.#socket = socket;
    this.#bye = null;
    this.#timer('connect', CONNECT_MS, () => this.#lost(socket, 1006, ''));
    socket.addEventListener('open', () => socket === this.#socket && this.#hello(token));
    socket.addEventListener('message', (event) => socket === this.#socket && this.#received(event.data));
    socket.addEventListener('close', (event) => this.#lost(socket, event.code, event.reason));
    // `close` follows every `error`, and says more; without a handler Node would throw.
    socket.addEventListener('error', () => {});
  }

  #hello(token) {
    const resume = {};
    for (const room of this.rooms.values()) {
      if (room.epoch) resume[room.name] = { epoch: room.epoch, seq: room.seq };
    }
    const payload = { v: 1, agent: this.#agent };
    if (token) payload.token = token;
    if (this.guest) payload.guest = this.guest;
    if (this.wishedNick) payload.nick = this.wishedNick;
    if (this.#wanted) payload.rooms = [...this.#wanted];
    if (Object.keys(resume).length) payload.resume = { rooms: resume };
    this.#helloSeq = this.#write('hello', payload);
  }

  #write(type, payload) {
    const seq = ++this.#seq;
    this.#socket?.send(JSON.stringify({ type, payload, seq }));
    return seq;
  }

  #request(type, payload) {
    if (this.state.name !== 'online') return Promise.reject(new WsChatError('disconnected'));
    return new Promise((resolve, reject) => {
      const seq = this.#write(type, payload);
      this.#requests.set(seq, { type, body: payload, resolve, reject });
    });
  }

  /** The connection `socket` is gone, by its own account or because it stayed silent. */
  #lost(socket, code, reason) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.#clearTimers();
    // A socket that is given up may still be closing; what it says later is nobody's.
    try {
      socket.close();
    } catch {
      // It was closed already.
    }
    for (const request of this.#requests.values()) request.reject(new WsChatError('disconnected'));
    this.#requests.clear();
    for (const room of this.rooms.values()) room.joined = false;
    for (const entry of this.#outbox) if (entry.state === 'sent') this.#mark(entry, 'waiting');

    const bye = this.#bye;
    const told = { code: bye?.code ?? code, reason: bye?.reason || reason || '' };
    if (this.#closing) {
      this.#closing();
      this.#closing = null;
      this.#ended(1000, '');
      return;
    }
    if (this.#welcomedAt && Date.now() - this.#welcomedAt > SETTLED_MS) {
      this.#attempt = 0;
      this.#atOnce = 0;
    }
    this.#welcomedAt = 0;
    const next = afterClose(told.code, bye, random);
    if (next.step === 'stop') {
      this.#ended(told.code, told.reason);
    } else if (next.step === 'token' && typeof this.#token !== 'function') {
      this.#ended(told.code, told.reason);
    } else if (next.step === 'after') {
      this.#wait(next.ms, { ...told, spread: true });
    } else if (next.step !== 'back-off' && this.#atOnce < AT_ONCE_MAX) {
      this.#atOnce += 1;
      this.#open();
    } else {
      this.#wait(backOff(this.#attempt++, random), told);
    }
  }

  #wait(ms, told) {
    this.#setState({ name: 'waiting', until: Date.now() + ms, ...told });
    this.#timer('retry', ms, () => this.#open());
  }

  #ended(code, reason) {
    this.#setState({ name: 'closed', code, reason });
  }

  // --- what the daemon says ---

  #received(data) {
    this.#heard = Date.now();
    if (typeof data !== 'string') return;
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    const payload = frame?.payload;
    if (typeof payload !== 'object' || payload === null) return;
    switch (frame.type) {
      case 'welcome':
        return this.#welcomed(payload);
      case 'ping':
        this.#socket?.send(JSON.stringify({ type: 'pong', payload, seq: 0 }));
        return undefined;
      case 'pong':
        return undefined;
      case 'bye':
        this.#bye = payload;
        return undefined;
      case 'joined':
        return this.#joined(payload);
      case 'left':
        this.rooms.delete(payload.room);
        // Closed by an operator: it is not joined again by itself.
        this.#wanted?.delete(payload.room);
        this.#settle(payload);
        return this.#emit('left', payload);
      case 'message':
      case 'event':
      case 'deleted':
        return this.#stored(frame.type, payload, frame.seq || 0);
      case 'presence':
        return this.#presence(payload);
      case 'typing':
      case 'notice':
      case 'muted':
        return this.#emit(frame.type, payload);
      case 'history':
      case 'who':
        return this.#settle(payload);
      case 'ack':
        return this.#acknowledged(payload);
      case 'error':
        return this.#refused(payload);
      default:
        // A newer daemon may say more than this client knows.
        return undefined;
    }
  }

  #welcomed(payload) {
    if (this.welcome && this.welcome.user !== payload.user) {
      // Another user's `cid` is another message: what may have arrived must not be sent again.
      for (const entry of [...this.#outbox]) if (entry.sentAt) this.#fail(entry, new WsChatError('uncertain'));
    }
    this.welcome = payload;
    if (payload.guest) this.guest = payload.guest;
    this.#welcomedAt = Date.now();
    this.#clearTimers();
    this.#watch(payload.ping_ms > 0 ? payload.ping_ms : PING_MS);
    this.#emit('welcome', payload);
    this.#setState({ name: 'online' });
  }

  #joined(payload) {
    let room = this.rooms.get(payload.room);
    const again = Boolean(room?.epoch);
    // Not recovered is no loss where nothing has been said since: the daemon may have been
    // restarted in between, but the numbers still tell.
    const same = again && room.epoch === payload.epoch;
    const gap = again && !payload.recovered && !(same && room.seq === payload.seq);
    const after = room?.seq ?? 0;
    if (!room) {
      room = { name: payload.room, epoch: '', seq: 0 };
      this.rooms.set(payload.room, room);
    }
    if (!again || !payload.recovered) room.seq = payload.seq || 0;
    room.epoch = payload.epoch;
    room.joined = true;
    room.online = payload.online;
    room.members = Array.isArray(payload.members) ? memberMap(payload.members) : null;
    this.#settle(payload);
    this.#emit('joined', { payload, again, gap, same, after });
    this.#flush();
  }

  #stored(type, payload, seq) {
    const room = this.rooms.get(payload.room);
    if (room && seq > 0) {
      if (seq <= room.seq) return;
      // What a purge took away is no gap: the frame that jumps says that all before it is gone.
      const purged = type === 'deleted' && payload.all;
      if (seq > room.seq + 1 && !purged) this.#emit('gap', { room: room.name, after: room.seq, before: seq });
      room.seq = seq;
    }
    if (type === 'message' && payload.cid && payload.from?.user === this.user) {
      const mine = this.#outbox.find((entry) => entry.cid === payload.cid);
      // What the daemon kept before the connection broke comes back as missed: that is its ack.
      if (mine) return this.#kept(mine, { ...payload, seq });
    }
    this.#emit(type, { payload, seq });
  }

  #presence(payload) {
    const room = this.rooms.get(payload.room);
    if (!room) return;
    if (typeof payload.online === 'number') room.online = payload.online;
    if (!payload.state) {
      // Above the presence limit there are numbers only, and a list would grow old unseen.
      room.members = null;
    } else if (!room.members) {
      this.who(payload.room).then(() => this.#emit('presence', { room: payload.room, online: room.online }), () => {});
    } else if (payload.state === 'leave') {
      room.members.delete(payload.user);
    } else {
      payload.before = room.members.get(payload.user);
      room.members.set(payload.user, payload.nick);
    }
    if (payload.state === 'nick' && payload.user === this.user && this.welcome) this.welcome.nick = payload.nick;
    this.#emit('presence', payload);
  }

  #settle(payload) {
    const request = this.#requests.get(payload.re);
    if (!request) return false;
    this.#requests.delete(payload.re);
    request.resolve(payload);
    return true;
  }

  #acknowledged(payload) {
    if (this.#requests.has(payload.re)) {
      // A deletion has its own place in the stream and is not sent back to who asked for it.
      const { type, body } = this.#requests.get(payload.re);
      if (type === 'delete') this.#stored('deleted', { room: payload.room, target: body.target }, payload.seq || 0);
      this.#settle(payload);
      return;
    }
    const entry = this.#outbox.find((each) => each.re === payload.re && each.state === 'sent');
    if (!entry) return;
    const room = this.rooms.get(payload.room ?? entry.room);
    // The own message takes its place in the stream although it is not sent back.
    if (room && payload.seq === room.seq + 1) room.seq = payload.seq;
    else if (room && payload.seq > room.seq) {
      this.#emit('gap', { room: room.name, after: room.seq, before: payload.seq });
      room.seq = payload.seq;
    }
    this.#kept(entry, payload);
  }

  #refused(payload) {
    const error = new WsChatError(payload.code, payload.message, {
      temporary: payload.temporary === true,
      retryMs: payload.retry_ms ?? null,
    });
    const request = this.#requests.get(payload.re);
    if (request) {
      this.#requests.delete(payload.re);
      request.reject(error);
      return;
    }
    const entry = this.#outbox.find((each) => each.re === payload.re && each.state === 'sent');
    if (!entry) {
      this.#emit('refused', { ...payload, of: payload.re === this.#helloSeq ? 'hello' : null });
      return;
    }
    clearTimeout(this.#timers.ack);
    entry.retries = (entry.retries || 0) + 1;
    const wait = error.retryMs ?? 1000 * entry.retries;
    // Refused means not kept, so it may be sent again at any time.
    entry.sentAt = 0;
    if (error.temporary && wait <= RETRY_MAX_MS && entry.retries < RETRIES_MAX) {
      this.#mark(entry, 'waiting');
      this.#timer('flush', wait, () => this.#flush());
    } else {
      this.#fail(entry, error);
      this.#flush();
    }
  }

  // --- messages on their way ---

  #enqueue(entry) {
    const limits = this.welcome?.limits;
    const bytes = utf8Length(entry.text);
    if (limits?.text && bytes > limits.text) {
      entry.state = 'failed';
      entry.error = new WsChatError('too_long', `${bytes} of ${limits.text} bytes`);
      entry.reject(entry.error);
    } else if (this.#outbox.length >= OUTBOX_MAX) {
      entry.state = 'failed';
      entry.error = new WsChatError('too_many_waiting', `${OUTBOX_MAX} messages are waiting already`, { temporary: true });
      entry.reject(entry.error);
    } else {
      entry.state = 'waiting';
      this.#outbox.push(entry);
    }
    this.#emit('outgoing', entry);
    this.#flush();
  }

  /** Sends the next waiting message. One is under way at a time, which keeps their order. */
  #flush() {
    if (this.state.name !== 'online' || this.#timers.flush) return;
    for (const entry of [...this.#outbox]) {
      if (entry.state === 'sent') return;
      const room = this.rooms.get(entry.room);
      const limit = this.welcome.limits?.text;
      if (entry.sentAt && Date.now() - entry.sentAt > CID_MS) {
        this.#fail(entry, new WsChatError('uncertain'));
      } else if (!room) {
        this.#fail(entry, new WsChatError('not_joined'));
      } else if (limit && utf8Length(entry.text) > limit) {
        // Written before the limit was known.
        this.#fail(entry, new WsChatError('too_long'));
      } else if (room.joined) {
        entry.sentAt ||= Date.now();
        entry.re = this.#write('message', { room: entry.room, text: entry.text, cid: entry.cid });
        this.#mark(entry, 'sent');
        const socket = this.#socket;
        this.#timer('ack', ACK_MS, () => this.#lost(socket, 1006, ''));
        return;
      }
      // Else its `joined` is still on its way, and calls this again.
    }
  }

  #kept(entry, { seq, id, time }) {
    clearTimeout(this.#timers.ack);
    this.#outbox = this.#outbox.filter((each) => each !== entry);
    entry.seq = seq;
    entry.id = id;
    if (time) entry.time = new Date(time);
    this.#mark(entry, 'kept');
    entry.resolve(entry);
    this.#flush();
  }

  #fail(entry, error) {
    this.#outbox = this.#outbox.filter((each) => each !== entry);
    entry.error = error;
    this.#mark(entry, 'failed');
    entry.reject(error);
  }

  #mark(entry, state) {
    entry.state = state;
    this.#emit('outgoing', entry);
  }

  // --- is it still there ---

  #watch(pingMs) {
    const every = Math.max(250, Math.min(5000, pingMs / 2));
    let ticked = Date.now();
    const tick = () => {
      const now = Date.now();
      // A timer that comes late was slowed down or slept through: what was heard meanwhile may
      // still stand in the queue behind it, so ask before giving up.
      const late = now - ticked > every * 2 + 1000;
      ticked = now;
      if (now - this.#heard <= pingMs * 2.5) return;
      if (late) this.#probe();
      else if (!this.#timers.probe) this.#lost(this.#socket, 4201, '');
    };
    this.#timers.watch = setInterval(tick, every);
  }

  #probe() {
    if (this.#timers.probe || this.state.name !== 'online') return;
    const socket = this.#socket;
    const asked = Date.now();
    this.#write('ping', {});
    this.#timer('probe', PROBE_MS, () => {
      if (this.#heard < asked) this.#lost(socket, 4201, '');
    });
  }

  #timer(name, ms, run) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(() => {
      delete this.#timers[name];
      run();
    }, ms);
  }

  #clearTimers() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
  }

  #want() {
    this.#wanted ??= new Set(this.rooms.keys());
    return this.#wanted;
  }

  #setState(state) {
    this.state = state;
    this.#emit('state', state);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** A random number in (0, 1], as the protocol's waits want it. */
function random() {
  return 1 - Math.random();
}

function newCid() {
  // Not randomUUID: a page served without TLS has no such function.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function memberMap(members) {
  return new Map(members.map(({ user, nick }) => [user, nick]));
}
