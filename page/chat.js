// The chat page: puts the connection and what is seen together. The connection itself lives in
// wschat.js, the lines of a room in log.js, all words in the language files.

import { WsChat, utf8Length } from './wschat.js';
import { count, fill, fullTime, t } from './i18n.js';
import { RoomLog } from './log.js';
import { recall, remember } from './memory.js';
import { dress, element, isolate } from './text.js';

/** How much of a room is shown when it is opened, and how much more at a time. */
const HISTORY = 50;
/** From this share of the limit on, the page says how much room is left. */
const LIMIT_SHOWN_FROM = 0.8;
/** A list of people longer than this is not shown name by name. */
const PEOPLE_MAX = 500;

const $ = (id) => document.getElementById(id);

fill(document);

const socketUrl = new URL(document.querySelector('meta[name="wschat-path"]').content, location.href);
socketUrl.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
socketUrl.hash = '';

const chat = new WsChat(socketUrl, {
  nick: recall('nick'),
  guest: recall('guest'),
  agent: 'wschat-page',
});
const logs = new Map();
let current = null;
let everOnline = false;
let toldWish = null;
let hintSeen = Boolean(recall('nick') || recall('hint'));

// --- the connection, told in words ---

const TROUBLE = {
  1001: 'restartTitle',
  1011: 'faultTitle',
  1012: 'maintenanceTitle',
  1013: 'busyTitle',
  4101: 'floodTitle',
  4102: 'slowTitle',
};

/** Announced absences: until it is back, the attempts that fail (1006) are for the same reason. */
const ANNOUNCED = new Set([1001, 1012]);
/** What the daemon says of a drain where the operator has no words for it; the title says that. */
const DRAINING = 'the server is being drained';
let announced = null;

/** For each code after which the page stays away: title, text, and whether coming back makes sense. */
const ENDED = {
  1002: ['brokenTitle', null, true],
  1003: ['brokenTitle', null, true],
  1007: ['brokenTitle', null, true],
  1009: ['tooLargeTitle', null, true],
  4001: ['unauthorizedTitle', 'unauthorizedText', false],
  4003: ['kickedTitle', null, true],
  4004: ['bannedTitle', null, false],
  4005: ['replacedTitle', 'replacedText', true],
  4202: ['expiredTitle', 'unauthorizedText', false],
};

let countdown = null;

chat.addEventListener('state', ({ detail: state }) => {
  clearInterval(countdown);
  $('app').dataset.state = state.name;
  $('light').dataset.state = state.name;
  $('light-count').textContent = '';
  const words = { connecting: 'connecting', online: 'connected', waiting: 'waiting', closed: 'closed' };
  $('light-words').textContent = t(words[state.name]);
  $('self').disabled = state.name !== 'online';
  // Under way there is nothing to press; what happened stays to be read until it is over.
  if (state.name === 'connecting') $('trouble-button').hidden = true;
  showPeople();
  if (state.name === 'online') {
    everOnline = true;
    announced = null;
    hideTrouble();
  } else if (state.name === 'waiting') {
    tellWaiting(state);
    const tick = () => {
      const seconds = Math.max(1, Math.ceil((state.until - Date.now()) / 1000));
      $('light-count').textContent = t('inSeconds', seconds);
    };
    tick();
    countdown = setInterval(tick, 250);
  } else if (state.name === 'closed') {
    tellClosed(state);
  }
  checkLength();
});

function tellWaiting(state) {
  if (ANNOUNCED.has(state.code)) announced = state;
  const { code, reason } = state.code === 1006 && announced ? announced : state;
  let title = TROUBLE[code] ?? (everOnline ? 'lostTitle' : 'startTitle');
  if (!navigator.onLine) title = 'offlineTitle';
  const texts = [t(everOnline ? 'lostText' : 'startText')];
  // A drain is begun by a person, whose words are worth passing on; the other reasons say the title again.
  if (code === 1012 && reason && reason !== DRAINING) texts.unshift(t('reason', isolate(reason)));
  showTrouble('soft', t(title), texts, 'tryNow', () => chat.retryNow());
}

function tellClosed({ code, reason }) {
  const [title, text, back] = ENDED[code] ?? ['endedTitle', code >= 4000 ? 'removedByOperator' : null, true];
  const texts = [text && t(text), reason && t('reason', isolate(reason))].filter(Boolean);
  showTrouble('hard', t(title), texts, back ? 'connectAgain' : null, () => chat.connect());
}

function showTrouble(kind, title, texts, button, press) {
  const box = $('trouble');
  box.dataset.kind = kind;
  // What ended for good is said at once; a short interruption waits until the reader is free.
  box.setAttribute('role', kind === 'hard' ? 'alert' : 'status');
  box.hidden = false;
  $('trouble-title').textContent = title;
  $('trouble-text').replaceChildren(...texts.map((text) => element('p', '', text)));
  $('trouble-button').hidden = !button;
  if (button) $('trouble-button').textContent = t(button);
  $('trouble-button').onclick = () => {
    press();
    $('text').focus();
  };
}

function hideTrouble() {
  $('trouble').hidden = true;
  delete $('trouble').dataset.room;
}

for (const [target, event] of [
  [window, 'online'],
  [window, 'pageshow'],
  [document, 'visibilitychange'],
]) {
  target.addEventListener(event, () => {
    if (document.hidden) return;
    chat.check();
    if (current?.atEnd) current.read();
    showUnread();
  });
}

// --- who one is ---

chat.addEventListener('welcome', ({ detail: welcome }) => {
  if (welcome.guest) remember('guest', welcome.guest);
  for (const log of logs.values()) log.user = welcome.user;
  showSelf();
  $('hint').hidden = hintSeen;
});

chat.addEventListener('refused', ({ detail: { code, of } }) => {
  if (of !== 'hello' || (code !== 'nick_taken' && code !== 'nick_invalid')) return;
  // The error comes before the welcome that names the nick given instead.
  chat.addEventListener('welcome', ({ detail }) => tellOtherNick(code, detail.nick), { once: true });
});

function tellOtherNick(code, given) {
  const wished = chat.wishedNick;
  if (!wished || toldWish === wished || wished === given) return;
  toldWish = wished;
  const key = code === 'nick_taken' ? 'nickTakenAtStart' : 'nickInvalidAtStart';
  showBanner(t(key, isolate(wished), isolate(given)), 'warn', false);
}

function showSelf() {
  const { user, nick } = chat;
  $('self-nick').textContent = nick;
  $('hint-nick').textContent = nick;
  dress($('self-avatar'), user, nick);
}

function hideHint() {
  hintSeen = true;
  $('hint').hidden = true;
}

function openNickDialog() {
  $('nick-error').textContent = '';
  $('nick-input').value = chat.nick ?? '';
  closeSide();
  $('nick-dialog').showModal();
  $('nick-input').select();
}

$('self').addEventListener('click', openNickDialog);
$('hint-choose').addEventListener('click', openNickDialog);
$('hint-close').addEventListener('click', () => {
  remember('hint', 'seen');
  hideHint();
});
$('nick-cancel').addEventListener('click', () => $('nick-dialog').close());
$('nick-dialog').addEventListener('close', () => $('text').focus());
$('nick-input').addEventListener('input', () => {
  $('nick-error').textContent = '';
});
$('nick-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const nick = $('nick-input').value.trim();
  if (!nick) {
    $('nick-error').textContent = t('nickEmpty');
    return;
  }
  if (nick === chat.nick) {
    remember('nick', nick);
    hideHint();
    $('nick-dialog').close();
    return;
  }
  $('nick-save').disabled = true;
  try {
    await chat.setNick(nick);
    remember('nick', nick);
    hideHint();
    showSelf();
    showPeople();
    $('nick-dialog').close();
  } catch (error) {
    const keys = { nick_taken: 'nick_taken', nick_invalid: 'nick_invalid', disconnected: 'nickOffline' };
    $('nick-error').textContent = t(keys[error.code] ?? 'nickFailed', isolate(nick));
  } finally {
    $('nick-save').disabled = false;
  }
});

// --- rooms and people ---

chat.addEventListener('joined', ({ detail }) => {
  const name = detail.payload.room;
  let log = logs.get(name);
  if (!log) {
    log = new RoomLog(name, { retry: (entry) => chat.resend(entry), discard, earlier: showEarlier, seen: showUnread });
    log.user = chat.user;
    log.node.hidden = true;
    logs.set(name, log);
    $('logs').append(log.node);
    if (!current) show(log);
    showRooms();
  }
  if ($('trouble').dataset.room) hideTrouble();
  log.entered(detail);
  if (!detail.again || detail.gap) loadHistory(log, {});
  showPeople();
});

chat.addEventListener('left', ({ detail: { re, room, reason } }) => {
  const log = logs.get(room);
  if (!log) return;
  logs.delete(room);
  log.node.remove();
  if (current === log) {
    current = null;
    const next = logs.values().next().value;
    if (next) show(next);
    else showPeople();
  }
  showRooms();
  // Nobody here asked to leave: an operator has closed the room.
  if (!re) tellRoomClosed(room, reason);
});

function tellRoomClosed(room, reason) {
  const title = t('roomClosed', isolate(room));
  const why = reason ? t('reason', isolate(reason)) : '';
  if (current) {
    showBanner(`${title} ${why}`.trim(), 'warn', false);
    return;
  }
  const again = () => chat.join(room).catch((error) => showBanner(t('roomNotOpen', isolate(error.message)), 'warn', false));
  showTrouble('hard', title, why ? [why] : [], 'enterAgain', again);
  $('trouble').dataset.room = room;
}

chat.addEventListener('presence', ({ detail: { room, user, nick, before, state } }) => {
  if (current?.room === room) showPeople();
  if (user && user === chat.user) {
    showSelf();
    if (state !== 'nick') return;
  }
  const log = logs.get(room);
  if (!log) return;
  if (state === 'join' && !before) log.line('system', t('joinedLine', isolate(nick)));
  else if (state === 'leave') log.line('system', t('leftLine', isolate(nick)));
  else if (state === 'nick' && user === chat.user) log.line('system', t('ownNickLine', isolate(nick)));
  else if (state === 'nick' && before) log.line('system', t('nickLine', isolate(before), isolate(nick)));
});

function show(log) {
  if (current) current.node.hidden = true;
  current = log;
  log.node.hidden = false;
  $('room-name').textContent = log.room;
  log.toEnd();
  showPeople();
  showRooms();
  showUnread();
}

function showRooms() {
  $('rooms-part').hidden = logs.size < 2;
  $('rooms').replaceChildren(
    ...[...logs.values()].map((log) => {
      const item = element('li');
      const button = element('button', 'room');
      button.type = 'button';
      if (log === current) button.setAttribute('aria-current', 'true');
      button.append(element('span', 'hash', '#'), element('bdi', '', log.room));
      if (log.unread > 0) {
        const badge = element('span', 'badge', count(log.unread));
        badge.setAttribute('aria-label', t('unread', log.unread));
        button.append(badge);
      }
      button.addEventListener('click', () => {
        show(log);
        closeSide();
      });
      item.append(button);
      return item;
    }),
  );
}

function showPeople() {
  const room = current && chat.rooms.get(current.room);
  if (!room) {
    // Being in no room is not being alone in the last one.
    if (!current && everOnline) {
      for (const id of ['room-count', 'people-count']) $(id).textContent = '';
      $('people').replaceChildren();
    }
    return;
  }
  const online = room.online ?? room.members?.size ?? 0;
  // Without a connection nobody knows who is here.
  const known = chat.state.name === 'online';
  $('room-count').textContent = known ? t('online', online) : '';
  $('people-count').textContent = known ? count(online) : '';
  const listed = room.members !== null && room.members.size <= PEOPLE_MAX;
  $('people').hidden = !listed;
  $('people-note').hidden = listed;
  $('people-note').textContent = listed ? '' : t('tooManyToList');
  if (!listed) {
    $('people').replaceChildren();
    return;
  }
  const people = [...room.members].sort(
    ([userA, a], [userB, b]) => (userB === chat.user) - (userA === chat.user) || a.localeCompare(b),
  );
  $('people').replaceChildren(
    ...people.map(([user, nick]) => {
      const item = element('li', 'person');
      const avatar = element('span', 'avatar');
      avatar.setAttribute('aria-hidden', 'true');
      dress(avatar, user, nick);
      const name = element('bdi', 'person-nick', nick);
      name.title = nick;
      item.append(avatar, name);
      if (user === chat.user) item.append(element('span', 'tag', t('you')));
      return item;
    }),
  );
}

// --- what is said ---

for (const type of ['message', 'event', 'deleted']) {
  chat.addEventListener(type, ({ detail: { payload, seq } }) => {
    // A private message has no room; it is shown where the reader is.
    const log = payload.room ? logs.get(payload.room) : current;
    log?.frame({ type, payload, seq });
  });
}

chat.addEventListener('gap', ({ detail: { room } }) => logs.get(room)?.line('gap', t('gap')));

chat.addEventListener('outgoing', ({ detail: entry }) => logs.get(entry.room)?.outgoing(entry, chat.nick));

chat.addEventListener('notice', ({ detail: { text, level, room } }) => {
  const kind = level === 'warn' ? 'warn' : 'info';
  showBanner(text, kind, true);
  const log = room ? logs.get(room) : current;
  log?.line(`notice ${kind}`, text);
});

chat.addEventListener('muted', ({ detail: { room, on, until, reason } }) => {
  const where = room ? [room] : [...logs.keys()];
  let words = t(on ? 'mutedLine' : 'unmutedLine');
  if (on && until) words += ` ${t('mutedUntil', fullTime(new Date(until)))}`;
  if (on && reason) words += ` ${t('reason', isolate(reason))}`;
  for (const name of where) logs.get(name)?.line('notice warn', words);
});

function showBanner(text, level, notice) {
  // A warning stays until it is dismissed. The log has the line of what is not shown here.
  if (level === 'info' && !$('banner').hidden && $('banner').dataset.level === 'warn') return;
  $('banner').dataset.level = level;
  $('banner').querySelector('strong').hidden = !notice;
  // A notice is read out by the log; what has no line there is read out here.
  $('banner').setAttribute('role', notice ? 'note' : 'alert');
  $('banner').hidden = false;
  $('banner-text').textContent = text;
}

$('banner-close').addEventListener('click', () => {
  $('banner').hidden = true;
  $('text').focus();
});

async function loadHistory(log, range) {
  try {
    const page = await chat.history(log.room, { ...range, limit: HISTORY });
    log.frames(page.messages ?? [], page.more === true);
  } catch {
    // Without a connection the next `joined` asks again; a daemon without history has none to show.
    log.frames([], !log.earlierButton.hidden);
  }
}

async function showEarlier(log) {
  const first = log.first;
  log.earlierButton.disabled = true;
  await loadHistory(log, first ? { before: first } : {});
  log.earlierButton.disabled = false;
}

function discard(entry) {
  logs.get(entry.room)?.drop(entry);
  $('text').focus();
}

function showUnread() {
  let unread = 0;
  for (const log of logs.values()) unread += log.unread;
  document.title = unread > 0 ? `(${count(unread)}) wschat` : 'wschat';
  $('jump').hidden = !current || current.atEnd;
  $('jump').classList.toggle('fresh', Boolean(current?.unread));
  if (logs.size > 1) showRooms();
}

$('jump').addEventListener('click', () => {
  current?.toEnd();
  showUnread();
  $('text').focus();
});

// --- writing ---

const text = $('text');

function fit() {
  text.style.height = 'auto';
  text.style.height = `${text.scrollHeight}px`;
}

/** Says how long the text is where that matters. Returns whether it may be sent. */
function checkLength() {
  const limit = chat.welcome?.limits?.text;
  const bytes = utf8Length(text.value.trim());
  const over = Boolean(limit) && bytes > limit;
  const near = Boolean(limit) && !over && bytes > limit * LIMIT_SHOWN_FROM;
  $('limit').hidden = !over && !near;
  $('limit').classList.toggle('over', over);
  if (over) $('limit').textContent = t('tooLong', bytes, limit);
  else if (near) $('limit').textContent = t('bytesLeft', limit - bytes);
  text.setAttribute('aria-invalid', String(over));
  $('send').disabled = over || bytes === 0;
  return !over;
}

text.addEventListener('input', () => {
  fit();
  checkLength();
});

text.addEventListener('keydown', (event) => {
  // While an input method composes, Enter belongs to it; Safari tells so by 229 alone.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  submit();
});

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  submit();
});

function submit() {
  const message = text.value.trim();
  if (!message || !checkLength()) return;
  // Before the first room is entered nobody knows where it should go.
  if (!current || chat.state.name === 'closed') {
    $('limit').hidden = false;
    $('limit').classList.add('over');
    $('limit').textContent = t(chat.state.name === 'online' ? 'nowhere' : 'cannotSend');
    return;
  }
  chat.send(current.room, message);
  text.value = '';
  fit();
  checkLength();
}

// --- the side on narrow screens ---

function openSide() {
  $('app').classList.add('side-open');
  $('veil').hidden = false;
  $('menu').setAttribute('aria-expanded', 'true');
  $('menu-close').focus();
}

function closeSide() {
  if (!$('app').classList.contains('side-open')) return;
  $('app').classList.remove('side-open');
  $('veil').hidden = true;
  $('menu').setAttribute('aria-expanded', 'false');
  $('menu').focus();
}

$('menu').addEventListener('click', openSide);
$('menu-close').addEventListener('click', closeSide);
$('veil').addEventListener('click', closeSide);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') closeSide();
});

checkLength();
chat.connect();
if (matchMedia('(min-width: 60rem)').matches) text.focus();
