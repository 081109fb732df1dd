// What the browser tests stand on: a daemon of their own, wschatctl against it, a proxy that can be
// cut, a server for the tutorial's page, and pages that fail a test when their console complains.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const run = promisify(execFile);

/** How long anything may take before a test calls it missing. Nothing is asserted on shorter times. */
export const PATIENCE = 30_000;

export const project = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

function needed(name) {
  const file = process.env[name];
  if (!file) throw new Error(`${name} must name the built binary`);
  return path.resolve(file);
}

export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

/** Waits until `ask` answers with something true; `what` is told where it never does. */
export async function until(what, ask) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`still waiting for: ${what}`);
    await pause();
  }
}

/** A daemon in a private folder. It can be stopped and started again on its port. */
export class Daemon {
  static async start(extra = '') {
    const daemon = new Daemon();
    daemon.program = needed('WSCHAT_BIN');
    daemon.tool = needed('WSCHATCTL_BIN');
    daemon.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wschat-browser-'));
    daemon.port = await freePort();
    daemon.socket = path.join(daemon.dir, 'control');
    daemon.config = path.join(daemon.dir, 'wschat.toml');
    daemon.log = '';
    const listen = `[[listen]]\naddress = "127.0.0.1:${daemon.port}"\ntls = true\n`;
    const control = `[control]\nsocket = "${daemon.socket}"\npush_socket = ""\n`;
    fs.writeFileSync(daemon.config, [listen, control, extra].join('\n'));
    await daemon.up();
    return daemon;
  }

  get origin() {
    return `https://127.0.0.1:${this.port}`;
  }

  async up() {
    this.child = spawn(this.program, ['--config', this.config], {
      env: { ...process.env, XDG_STATE_HOME: this.dir, XDG_RUNTIME_DIR: this.dir },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.ended = new Promise((resolve) => this.child.once('exit', (code, signal) => resolve({ code, signal })));
    let over = null;
    this.ended.then((end) => {
      over = end;
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.log = (this.log + text).slice(-200_000);
      });
    }
    await until('the daemon to be healthy', async () => {
      if (over) throw new Error(`the daemon ended: ${JSON.stringify(over)}\n${this.log}`);
      return (await this.health()) === 200;
    });
  }

  health() {
    return new Promise((resolve) => {
      https
        .get(`${this.origin}/healthz`, { rejectUnauthorized: false, agent: false }, (answer) => {
          answer.resume();
          resolve(answer.statusCode);
        })
        .on('error', () => resolve(0));
    });
  }

  async down() {
    this.child.kill('SIGTERM');
    return this.ended;
  }

  async remove() {
    if (this.child.exitCode === null && this.child.signalCode === null) await this.down();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }

  /** Runs wschatctl; its standard output. Rejects where it fails. */
  async ctl(...args) {
    const { stdout } = await run(this.tool, ['--socket', this.socket, ...args]);
    return stdout;
  }
}

/** A TCP proxy in front of a port, to cut connections as a network does. */
export class Proxy {
  static async to(port) {
    const proxy = new Proxy();
    proxy.pairs = new Set();
    proxy.whole = true;
    proxy.server = net.createServer((near) => {
      if (!proxy.whole) {
        near.destroy();
        return;
      }
      const far = net.connect(port, '127.0.0.1');
      proxy.pairs.add(near).add(far);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ]) {
        one.on('error', () => {});
        one.on('close', () => {
          proxy.pairs.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    proxy.origin = `https://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  cut() {
    this.whole = false;
    for (const socket of this.pairs) socket.destroy();
  }

  mend() {
    this.whole = true;
  }

  async close() {
    this.cut();
    this.server.close();
    await once(this.server, 'close');
  }
}

/** Serves the tutorial's page. Only the port in its address is changed: the tests cannot all use 9501. */
export async function serveTutorial(daemonPort) {
  const fixture = fs.readFileSync(path.join(project, 'tests/fixtures/tutorial.html'), 'utf8');
  const server = http.createServer((request, answer) => {
    if (request.url !== '/') {
      answer.writeHead(204).end();
      return;
    }
    answer.setHeader('Content-Type', 'text/html; charset=utf-8');
    answer.end(fixture.replace('127.0.0.1:9501', `127.0.0.1:${daemonPort()}`));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** A browser whose pages note every complaint. */
export class Browser {
  static async launch() {
    const browser = new Browser();
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM_BIN || '/usr/bin/chromium',
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
    browser.people = [];
    return browser;
  }

  /**
   * A person with a browser profile of their own.
   * @param {object} how `locale`, `width`, `height`, `dark`, `nick` (remembered from an earlier visit),
   *   `mayLose` (a lost connection is part of the test, so its console line is no fault), `clock`
   *   (one that the test can move), `wire` (stands between the page and its socket)
   */
  async person(url, how = {}) {
    const width = how.width ?? 1280;
    const context = await this.chromium.newContext({
      ignoreHTTPSErrors: true,
      locale: how.locale ?? 'en-GB',
      colorScheme: how.dark ? 'dark' : 'light',
      viewport: { width, height: how.height ?? (width < 600 ? 740 : 800) },
      isMobile: width < 600,
      hasTouch: width < 600,
    });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    const person = new Person(context, page);
    page.on('pageerror', (error) => person.faults.push(String(error.stack ?? error)));
    page.on('console', (line) => {
      if (line.type() !== 'error' && line.type() !== 'warning') return;
      if (how.mayLose && /WebSocket connection to .* failed/.test(line.text())) return;
      person.faults.push(`${line.type()}: ${line.text()}`);
    });
    page.on('websocket', () => {
      person.sockets += 1;
    });
    if (how.wire) await page.routeWebSocket(/.*/, (near) => how.wire(near, near.connectToServer()));
    if (how.clock) await page.clock.install();
    if (how.nick) {
      await page.addInitScript((nick) => {
        if (localStorage.getItem('wschat.nick') === null) localStorage.setItem('wschat.nick', nick);
      }, how.nick);
    }
    this.people.push(person);
    person.answer = await page.goto(url);
    return person;
  }

  /** Closes everybody's pages. Returns what their consoles complained of. */
  async closeAll() {
    const people = this.people.splice(0);
    await Promise.all(people.map((person) => person.context.close()));
    return people.flatMap((person) => person.faults);
  }

  close() {
    return this.chromium.close();
  }
}

/** Somebody who looks at the chat page. */
export class Person {
  constructor(context, page) {
    this.context = context;
    this.page = page;
    this.faults = [];
    this.sockets = 0;
  }

  /** Waits until the light says `state`: connecting, online, waiting, closed. */
  async light(state) {
    await this.page.locator(`#light[data-state="${state}"]`).waitFor();
    return this;
  }

  async write(text) {
    await this.page.fill('#text', text);
    await this.page.press('#text', 'Enter');
  }

  /** Writes, and waits for the daemon's ack. */
  async say(text) {
    await this.write(text);
    await this.own(text, 'kept').waitFor();
  }

  own(text, state) {
    return this.page.locator(`.message.own[data-state="${state}"]`).filter({ hasText: text });
  }

  heard(text) {
    return this.page.locator('.message:not(.own)').filter({ hasText: text });
  }

  line(kind, text) {
    return this.page.locator(`.line.${kind}`).filter({ hasText: text });
  }

  /** The texts of all messages on the page, in their order. */
  texts() {
    return this.page.locator('.message .text').allTextContents();
  }

  async rename(nick) {
    await this.page.click('#self');
    await this.page.fill('#nick-input', nick);
    await this.page.click('#nick-save');
  }
}
