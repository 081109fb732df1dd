// What was said in one room, as it is seen: order, groups by author, days, and the state of one's
// own messages. It owns the elements of the room's log and their order; it refuses to know the
// connection, and tells wishes (retry, discard, earlier) through the callbacks it was given.

import { clockTime, dayName, fullTime, t } from './i18n.js';
import { dress, element, withLinks } from './text.js';

/** Messages of one author closer than this stand together. */
const GROUP_MS = 5 * 60_000;
/** More lines than this are cut off at the top; a tab may stay open for weeks. */
const LINES_MAX = 2000;
/** So many comings and goings stand in one paragraph. */
const SYSTEM_MAX = 12;
/** As near to the end as this counts as reading the newest. */
const NEAR_END_PX = 80;

export class RoomLog {
  /** @param {{retry(entry), discard(entry), earlier(log), seen()}} wishes */
  constructor(room, wishes) {
    this.room = room;
    this.wishes = wishes;
    this.unread = 0;
    this.items = [];
    this.byKey = new Map();
    this.byCid = new Map();
    this.user = null;
    // The stream's numbers start again when its epoch changes; the generation keeps the order.
    this.generation = 0;
    this.head = 0;
    this.count = 0;
    this.atEnd = true;

    this.node = element('div', 'log');
    this.node.tabIndex = 0;
    this.node.setAttribute('role', 'log');
    this.node.setAttribute('aria-live', 'polite');
    this.node.setAttribute('aria-label', t('log', room));
    this.earlierButton = element('button', 'earlier', t('earlier'));
    this.earlierButton.type = 'button';
    this.earlierButton.hidden = true;
    this.earlierButton.addEventListener('click', () => this.wishes.earlier(this));
    this.top = element('p', 'log-top');
    this.top.append(this.earlierButton);
    this.emptyNote = element('p', 'log-empty', t('empty'));
    this.emptyNote.hidden = true;
    this.lines = element('div', 'lines');
    this.node.append(this.top, this.emptyNote, this.lines);
    this.node.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.atEnd && this.toEnd()).observe(this.node);
  }

  // --- what comes in ---

  /** A stored frame (`message`, `event`, `deleted`) or a private message, live or from the history. */
  frame({ type, payload, seq }, { old = false } = {}) {
    if (type === 'deleted') {
      if (payload.all) this.#removeUpTo(payload.target);
      else this.#remove(payload.target);
      if (seq > this.head) this.head = seq;
      return;
    }
    if (type !== 'message') {
      if (seq > this.head) this.head = seq;
      return;
    }
    const mine = payload.from?.user === this.user;
    const pending = mine && payload.cid ? this.byCid.get(payload.cid) : undefined;
    if (pending) {
      if (pending.state !== 'kept') this.#keep(pending, seq, payload.time);
      return;
    }
    if (seq > 0 && this.byKey.has(this.#name(seq))) return;
    this.#insert({
      kind: 'message',
      key: seq > 0 ? [this.generation, seq, 0] : this.#localKey(),
      seq,
      user: payload.from?.user ?? '',
      nick: payload.from?.nick ?? '?',
      text: payload.text ?? '',
      time: new Date(payload.time ?? Date.now()),
      own: mine,
      state: mine ? 'kept' : '',
      removed: payload.deleted === true,
      privately: Boolean(payload.to),
    });
    if (seq > this.head) this.head = seq;
    if (!old && !mine) this.#countUnread();
  }

  /**
   * Many stored frames at once; a screen reader is not made to read them all out.
   * `more`: there is something before the first of them.
   */
  frames(frames, more) {
    const fromEnd = this.node.scrollHeight - this.node.scrollTop;
    const stay = !this.atEnd;
    this.node.setAttribute('aria-live', 'off');
    for (const frame of frames) this.frame(frame, { old: true });
    if (stay) this.node.scrollTop = this.node.scrollHeight - fromEnd;
    requestAnimationFrame(() => this.node.setAttribute('aria-live', 'polite'));
    // Below a gap older ones are shown already, and what is before those is another question.
    if (frames.length === 0 || frames[0].seq === this.first) this.setMore(more);
    this.emptyNote.hidden = this.items.some((item) => item.kind === 'message');
  }

  /** An outgoing message is new, or its state has changed. */
  outgoing(entry, nick) {
    let item = this.byCid.get(entry.cid);
    if (!item) {
      item = {
        kind: 'message',
        key: [Infinity, this.count++, 0],
        seq: 0,
        user: this.user ?? '',
        nick: nick ?? '',
        text: entry.text,
        time: entry.time,
        own: true,
        entry,
      };
      this.byCid.set(entry.cid, item);
      item.state = shownState(entry);
      this.#insert(item);
      this.toEnd();
      return;
    }
    if (entry.state === 'kept') {
      if (item.state !== 'kept') this.#keep(item, entry.seq, null);
    } else if (item.state !== 'kept') {
      item.state = shownState(entry);
      this.#showState(item);
    }
  }

  drop(entry) {
    const item = this.byCid.get(entry.cid);
    if (!item || item.state === 'kept') return;
    this.byCid.delete(entry.cid);
    this.#takeOut(item);
  }

  /** A line that nobody wrote: `system`, `notice info`, `notice warn`, `gap`. */
  line(kind, text, time = new Date()) {
    const words = element('span', 'line-text', text);
    words.dir = 'auto';
    words.title = fullTime(time);
    const last = this.items.findLast((item) => item.key[0] !== Infinity);
    // Comings and goings in a row share one paragraph, or they would push the talk away.
    if (kind === 'system' && last?.system < SYSTEM_MAX && last.time.toDateString() === time.toDateString()) {
      last.system += 1;
      last.node.append(' ', words);
      if (this.atEnd) this.node.scrollTop = this.node.scrollHeight;
      return;
    }
    const node = element('div', `line ${kind}`);
    node.append(words);
    this.#insert({ kind: 'line', key: this.#localKey(), node, time, system: kind === 'system' ? 1 : Infinity });
  }

  /** The room was entered. `gap`: something may be missing between what is shown and what comes. */
  entered({ payload, gap, same, again }) {
    if (gap) this.line('gap', t('gap'));
    if (again && !same) {
      this.generation += 1;
      this.head = 0;
    }
    if (!payload.recovered) this.head = Math.max(this.head, payload.seq || 0);
  }

  setMore(more) {
    this.earlierButton.hidden = !more;
  }

  /** The smallest number that is shown, for asking what was before it. */
  get first() {
    const item = this.items.find((each) => each.seq > 0 && each.key[0] === this.generation);
    return item ? item.seq : 0;
  }

  // --- where the reader is ---

  toEnd() {
    this.atEnd = true;
    this.node.scrollTop = this.node.scrollHeight;
    this.read();
  }

  read() {
    if (this.unread === 0) return;
    this.unread = 0;
    this.wishes.seen();
  }

  #countUnread() {
    if (this.atEnd && this.node.isConnected && !this.node.hidden && !document.hidden) return;
    this.unread += 1;
    this.wishes.seen();
  }

  #scrolled() {
    if (this.node.hidden) return;
    this.atEnd = this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < NEAR_END_PX;
    if (this.atEnd && !document.hidden) this.read();
    this.wishes.seen();
  }

  // --- order ---

  #name(seq, generation = this.generation) {
    return `${generation}:${seq}`;
  }

  /** After everything stored that is known by now, before what is not stored yet. */
  #localKey() {
    return [this.generation, this.head, ++this.count];
  }

  #insert(item) {
    const follow = this.atEnd;
    let at = this.items.length;
    while (at > 0 && before(item.key, this.items[at - 1].key)) at -= 1;
    this.items.splice(at, 0, item);
    if (item.seq > 0) this.byKey.set(this.#name(item.seq, item.key[0]), item);
    item.node ??= this.#draw(item);
    const next = this.items[at + 1];
    this.lines.insertBefore(item.node, next ? (next.day ?? next.node) : null);
    this.#arrange(at);
    this.#arrange(at + 1);
    if (item.kind === 'message') this.emptyNote.hidden = true;
    if (follow) {
      this.#cut();
      this.node.scrollTop = this.node.scrollHeight;
    }
  }

  #takeOut(item) {
    const at = this.items.indexOf(item);
    this.items.splice(at, 1);
    item.day?.remove();
    item.node.remove();
    this.#arrange(at);
  }

  /** What depends on the line before: is it a new day, a new group? */
  #arrange(at) {
    const item = this.items[at];
    if (!item) return;
    const previous = this.items[at - 1];
    const newDay = !previous || previous.time.toDateString() !== item.time.toDateString();
    if (newDay && !item.day) {
      item.day = element('div', 'day');
      item.day.append(element('span', '', dayName(item.time)));
      this.lines.insertBefore(item.day, item.node);
    } else if (!newDay && item.day) {
      item.day.remove();
      item.day = null;
    }
    if (item.kind !== 'message') return;
    const grouped =
      !newDay &&
      previous.kind === 'message' &&
      previous.user === item.user &&
      previous.nick === item.nick &&
      Boolean(previous.privately) === Boolean(item.privately) &&
      Math.abs(item.time - previous.time) < GROUP_MS;
    item.node.classList.toggle('first', !grouped);
  }

  #cut() {
    if (this.items.length <= LINES_MAX) return;
    while (this.items.length > LINES_MAX * 0.9) {
      const item = this.items.shift();
      item.day?.remove();
      item.node.remove();
      this.byKey.delete(this.#name(item.seq, item.key[0]));
      if (item.entry) this.byCid.delete(item.entry.cid);
    }
    this.#arrange(0);
    this.setMore(true);
  }

  // --- one message ---

  #draw(item) {
    const node = element('article', item.own ? 'message own' : 'message');
    const avatar = element('span', 'avatar');
    avatar.setAttribute('aria-hidden', 'true');
    dress(avatar, item.user, item.nick);
    const body = element('div', 'message-body');
    const who = element('p', 'who');
    who.append(element('bdi', 'nick', item.own ? t('you') : item.nick));
    who.firstChild.dataset.hue = avatar.dataset.hue;
    if (item.privately) who.append(' ', element('span', 'tag', t('privately')));
    const bubble = element('div', 'bubble');
    item.textNode = element('span', 'text');
    item.textNode.dir = 'auto';
    const meta = element('span', 'meta');
    item.timeNode = element('time', '', clockTime(item.time));
    item.timeNode.dateTime = item.time.toISOString();
    item.timeNode.title = fullTime(item.time);
    meta.append(item.timeNode);
    if (item.own) {
      item.mark = element('span', 'mark');
      item.mark.setAttribute('role', 'img');
      meta.append(item.mark);
    }
    bubble.append(item.textNode, meta);
    body.append(who, bubble);
    node.append(avatar, body);
    item.node = node;
    item.body = body;
    this.#showText(item);
    this.#showState(item);
    return node;
  }

  #showText(item) {
    item.node.classList.toggle('removed', Boolean(item.removed));
    item.textNode.replaceChildren(...(item.removed ? [t('removedMessage')] : withLinks(item.text)));
  }

  #showState(item) {
    if (!item.own) return;
    item.node.dataset.state = item.state;
    if (item.state !== 'failed') {
      item.mark.setAttribute('aria-label', t(item.state));
      item.mark.title = t(item.state);
      item.failure?.remove();
      item.failure = null;
      return;
    }
    item.mark.setAttribute('aria-label', t('failed'));
    item.mark.title = t('failed');
    item.failure?.remove();
    item.failure = element('p', 'failure');
    const retry = element('button', 'link-button retry', t('retry'));
    retry.type = 'button';
    retry.addEventListener('click', () => this.wishes.retry(item.entry));
    const discard = element('button', 'link-button quiet', t('discard'));
    discard.type = 'button';
    discard.addEventListener('click', () => this.wishes.discard(item.entry));
    const code = item.entry.error?.code;
    const failureText = element('span', '', `${t('failed')} ${whyText(code)}`);
    item.failure.append(failureText, ' ', ...(code === 'too_long' ? [] : [retry, ' ']), discard);
    item.body.append(item.failure);
    if (this.atEnd) this.node.scrollTop = this.node.scrollHeight;
  }

  /** A pending message takes its place in the stream. */
  #keep(item, seq, time) {
    this.#takeOut(item);
    item.state = 'kept';
    item.seq = seq;
    item.key = seq > 0 ? [this.generation, seq, 0] : this.#localKey();
    if (time) {
      item.time = new Date(time);
      item.timeNode.textContent = clockTime(item.time);
      item.timeNode.dateTime = item.time.toISOString();
      item.timeNode.title = fullTime(item.time);
    }
    item.day = null;
    this.#showState(item);
    if (seq > 0 && this.byKey.has(this.#name(seq))) return;
    this.#insert(item);
    if (seq > this.head) this.head = seq;
  }

  #remove(target) {
    const item = this.byKey.get(this.#name(target));
    if (!item || item.kind !== 'message') return;
    item.removed = true;
    this.#showText(item);
  }

  /** An operator has purged the room: nothing up to `target` is stored any more. */
  #removeUpTo(target) {
    for (const item of this.items) {
      if (item.kind !== 'message' || item.removed || !(item.seq > 0) || item.seq > target) continue;
      // A message of an older stream has numbers of its own, and is gone as well.
      item.removed = true;
      this.#showText(item);
    }
  }
}

function before(a, b) {
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return a[i] < b[i];
  return false;
}

/** The reader is not helped by knowing whether the bytes have left already. */
function shownState(entry) {
  return entry.state === 'failed' || entry.state === 'kept' ? entry.state : 'pending';
}

function whyText(code) {
  const known = ['too_long', 'rate_limited', 'muted', 'forbidden', 'not_joined', 'too_many_waiting', 'uncertain'];
  return t(known.includes(code) ? `why_${code}` : 'why_other');
}
