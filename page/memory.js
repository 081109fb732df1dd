// What the page remembers between visits. A browser may refuse storage (private windows, strict
// settings); then everything still works, and is forgotten.

const PREFIX = 'wschat.';

export function remember(key, value) {
  try {
    if (value) localStorage.setItem(PREFIX + key, value);
    else localStorage.removeItem(PREFIX + key);
  } catch {
    // Nothing is lost but the memory.
  }
}

export function recall(key) {
  try {
    return localStorage.getItem(PREFIX + key);
  } catch {
    return null;
  }
}
