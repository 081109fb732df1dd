// Which language the page speaks, and the formats that go with it.
// It owns no sentence: those stand in one file for each language.

import en from './en.js';
import zhCN from './zh-CN.js';

const LANGUAGES = { en, 'zh-CN': zhCN };

/**
 * The first language of the browser's list that the page has, English where it has none; and the
 * full tag for dates and numbers, which differ between the countries of one language.
 */
export function chooseLanguage(wanted) {
  for (const tag of wanted) {
    const primary = String(tag).toLowerCase().split('-')[0];
    // Every Chinese reader is better served by Simplified Chinese than by English.
    if (primary === 'zh') return { language: 'zh-CN', region: 'zh-CN' };
    if (primary === 'en') return { language: 'en', region: tag };
  }
  return { language: 'en', region: 'en' };
}

export const { language, region } = chooseLanguage(
  navigator.languages?.length ? navigator.languages : [navigator.language],
);

const messages = LANGUAGES[language];

/** The text `key`, with what belongs into it. A missing key is a mistake that a test must see. */
export function t(key, ...values) {
  const message = messages[key];
  if (message === undefined) throw new Error(`no text for ${key}`);
  return typeof message === 'function' ? message(...values) : message;
}

/** Fills the texts that index.html names by `data-t…`. */
export function fill(root) {
  document.documentElement.lang = language;
  for (const node of root.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll('[data-t-label]')) node.setAttribute('aria-label', t(node.dataset.tLabel));
  for (const node of root.querySelectorAll('[data-t-title]')) node.title = t(node.dataset.tTitle);
  for (const node of root.querySelectorAll('[data-t-placeholder]')) node.placeholder = t(node.dataset.tPlaceholder);
}

const clock = new Intl.DateTimeFormat(region, { hour: 'numeric', minute: '2-digit' });
const full = new Intl.DateTimeFormat(region, { dateStyle: 'full', timeStyle: 'medium' });
const dayThisYear = new Intl.DateTimeFormat(region, { weekday: 'long', day: 'numeric', month: 'long' });
const dayOfYear = new Intl.DateTimeFormat(region, { dateStyle: 'long' });

export function clockTime(date) {
  return clock.format(date);
}

export function fullTime(date) {
  return full.format(date);
}

export function dayName(date, now = new Date()) {
  const noon = (each) => new Date(each.getFullYear(), each.getMonth(), each.getDate(), 12);
  const days = Math.round((noon(now) - noon(date)) / 86_400_000);
  if (days === 0) return t('today');
  if (days === 1) return t('yesterday');
  return (date.getFullYear() === now.getFullYear() ? dayThisYear : dayOfYear).format(date);
}

const number = new Intl.NumberFormat(region);

export function count(value) {
  return number.format(value);
}
