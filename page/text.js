// Foreign text made fit to be shown: links found, names given a colour and an initial.
// Everything becomes text nodes and attributes; nothing here is ever parsed as markup.

const LINK = /\bhttps?:\/\/[^\s<>"'`\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+/giu;
const TAIL = /[.,;:!?…*_~\]}]+$/u;

/** The text as nodes, its http and https addresses as links. */
export function withLinks(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(LINK)) {
    const shown = trimTail(match[0]);
    const url = parse(shown);
    if (!url) continue;
    if (match.index > from) nodes.push(document.createTextNode(text.slice(from, match.index)));
    const link = document.createElement('a');
    link.href = url.href;
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow ugc';
    link.textContent = shown;
    nodes.push(link);
    from = match.index + shown.length;
  }
  if (from < text.length) nodes.push(document.createTextNode(text.slice(from)));
  return nodes;
}

/** Punctuation after an address belongs to the sentence; a bracket only where none was opened. */
function trimTail(found) {
  let shown = found;
  for (;;) {
    const before = shown;
    shown = shown.replace(TAIL, '');
    if (shown.endsWith(')') && shown.split('(').length < shown.split(')').length) shown = shown.slice(0, -1);
    if (shown === before) return shown;
  }
}

function parse(shown) {
  try {
    const url = new URL(shown);
    return url.protocol === 'http:' || url.protocol === 'https:' ? url : null;
  } catch {
    return null;
  }
}

const segmenter = typeof Intl.Segmenter === 'function' ? new Intl.Segmenter() : null;

/** The first character of a name as a reader counts characters. */
export function initial(name) {
  const first = segmenter ? segmenter.segment(name)[Symbol.iterator]().next().value?.segment : [...name][0];
  return (first || '?').toLocaleUpperCase();
}

/** One of twelve hues, the same for a user everywhere. */
export function hue(user) {
  let hash = 0;
  for (const char of user) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return String(hash % 12);
}

/** Makes an element with a class and a text. */
export function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Shapes an avatar for a user. */
export function dress(avatar, user, nick) {
  avatar.dataset.hue = hue(user);
  avatar.textContent = initial(nick);
}

/** Puts nicks into a sentence isolated from its direction, so that no name can turn the sentence around. */
export function isolate(nick) {
  return `\u2068${nick}\u2069`;
}
