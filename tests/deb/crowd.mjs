// Many people in the lobby, each with the client library of pages: crowd.mjs COUNT PORT
//
// Each says "NUMBER" again and again, from 1 up, and checks of everybody else that what it hears is
// 1, 2, 3 … without a hole and without a double, across any loss of the connection. A line on
// standard input is answered with one of JSON: `speak`, `hush`, `count`.

import { createInterface } from 'node:readline';

import { WsChat } from '../../clients/js/wschat.js';

const [size, port] = process.argv.slice(2).map(Number);
/** Between two messages of one person, in milliseconds; less than the default rate allows. */
const EVERY = 2500;
/** Complaints that are kept to be shown. */
const COMPLAINTS = 10;

const wrong = [];
const people = [];
let speaking = false;
let kept = 0;
let back = 0;

function complain(text) {
  if (wrong.length < COMPLAINTS) wrong.push(text);
}

class Person {
  constructor(number) {
    this.name = `p${number}`;
    this.said = 0;
    this.welcomes = 0;
    /** nick -> the last number heard of it */
    this.heard = new Map();
    this.chat = new WsChat(`wss://127.0.0.1:${port}/chat`, { nick: this.name });
    this.chat.addEventListener('welcome', () => {
      if (this.welcomes++ > 0) back += 1;
    });
    this.chat.addEventListener('message', ({ detail: { payload } }) => this.hear(payload));
    this.chat.addEventListener('gap', ({ detail }) => complain(`${this.name} missed ${JSON.stringify(detail)}`));
    this.chat.addEventListener('joined', ({ detail }) => {
      if (detail.gap) complain(`${this.name} is back with a gap after ${detail.after}`);
    });
    this.chat.addEventListener('refused', ({ detail }) => complain(`${this.name} was refused: ${detail.code}`));
    this.chat.addEventListener('state', ({ detail }) => {
      if (detail.name === 'closed') complain(`${this.name} was closed: ${detail.code} ${detail.reason}`);
    });
    this.chat.connect();
  }

  hear({ from, text }) {
    const last = this.heard.get(from.nick) ?? 0;
    if (Number(text) !== last + 1) complain(`${this.name} heard ${text} of ${from.nick} after ${last}`);
    this.heard.set(from.nick, Number(text));
  }

  speak() {
    const number = ++this.said;
    this.chat.send('lobby', String(number)).done.then(
      () => (kept += 1),
      (error) => complain(`${number} of ${this.name} was not kept: ${error}`),
    );
  }

  /** Messages of others that have been kept and did not come here yet. */
  unheard() {
    return people.filter((other) => other !== this && (this.heard.get(other.name) ?? 0) < other.said).length;
  }
}

for (let number = 0; number < size; number++) people.push(new Person(number));

// In turn, so that somebody is always speaking.
let turn = 0;
setInterval(() => {
  if (speaking) people[turn++ % size].speak();
}, EVERY / size);

function count() {
  return {
    online: people.filter((person) => person.chat.rooms.get('lobby')?.joined).length,
    back,
    kept,
    unsent: people.reduce((sum, person) => sum + person.chat.unsent.length, 0),
    unheard: people.reduce((sum, person) => sum + person.unheard(), 0),
    wrong,
  };
}

createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'speak' || line === 'hush') speaking = line === 'speak';
  process.stdout.write(`${JSON.stringify(count())}\n`);
});
