"""The words in which the cases are told: a machine on which the package is installed.

Owns how wschat is installed, asked, configured and watched on such a machine. What is right and
wrong is for the cases to say.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import chat
from machine import DEADLINE, Failed, Machine, wait_for

CONFIG = "/etc/wschat/wschat.toml"
CONTROL = "/run/wschat/control"
PUSH = "/run/wschat/push"

HERE = Path(__file__).resolve().parent

CASES = []


def case(words, installed=True):
    """A case by its description; `installed`: with the package on the machine from the beginning."""

    def add(function):
        CASES.append((words, function, installed))
        return function

    return add


def check(truth, *what):
    """Fails with these words unless `truth` holds."""
    if not truth:
        raise Failed(" ".join(str(word) for word in what))


def same(found, wanted, what):
    """Fails unless both are equal."""
    check(found == wanted, f"{what}: {found!r} instead of {wanted!r}")


class House(Machine):
    """A machine, and on it the daemon, its ctl and its people."""

    @contextlib.contextmanager
    def running(self, *words, user=None):
        """Runs a command that waits for what happens in the block, and must end well after it."""
        command = subprocess.Popen(
            self.command(*words, user=user), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        try:
            yield
            output, _ = command.communicate(timeout=120)
            same(command.returncode, 0, f"{' '.join(map(str, words))}:\n{output}\nexit status")
        finally:
            command.kill()
            command.wait()

    # -- the package -----------------------------------------------------------------------------

    def put(self, package):
        """Copies a package into the machine and returns where it is there."""
        place = f"/root/{package.name}"
        self.path(place).write_bytes(package.read_bytes())
        return place

    def install(self, package, *options):
        return self.run("apt-get", "install", "-y", "--no-install-recommends", *options, self.put(package))

    def exists(self, path):
        return self.path(path).exists() or self.path(path).is_symlink()

    # -- the unit --------------------------------------------------------------------------------

    def systemctl(self, *words, exits=0):
        return self.run("systemctl", *words, exits=exits)

    def show(self, name):
        """One property of the unit."""
        return self.systemctl("show", "--value", "-p", name, "wschat").strip()

    def pid(self):
        return int(self.show("MainPID"))

    def until_active(self, other_than=None):
        """Waits until the daemon is ready, with another process where one is named, and returns its id."""

        def ready():
            pid = self.pid()
            return self.show("ActiveState") == "active" and pid and pid != other_than and pid

        return wait_for("wschat to be active", ready)

    def signal(self, name):
        self.systemctl("kill", f"--signal={name}", "wschat")

    def drop_in(self, text):
        """Puts this beside the unit, as `systemctl edit` would; in place of what was put there before."""
        self.run("mkdir", "-p", "/etc/systemd/system/wschat.service.d")
        self.path("/etc/systemd/system/wschat.service.d/test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def journal(self, *match):
        """The daemon's entries, oldest first, each with all of its fields."""
        lines = self.run("journalctl", "-q", "-u", "wschat", "-o", "json", "--all", *match).splitlines()
        return [json.loads(line) for line in lines]

    def warnings(self):
        """What the daemon itself has warned of, or called an error."""
        entries = self.journal("SYSLOG_IDENTIFIER=wschat")
        return [entry["MESSAGE"] for entry in entries if int(entry["PRIORITY"]) <= 4]

    def journal_text(self):
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal())

    # -- configuration ---------------------------------------------------------------------------

    def sockets(self):
        """How many sockets the daemon has open. Its files are not counted: SQLite opens some as it needs them."""
        count = 0
        for entry in self.path(f"/proc/{self.pid()}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(entry).startswith("socket:")
        return count

    def configure(self, table, *lines):
        """Puts lines at the head of a table in the configuration file; another `[[table]]` goes to its end."""
        file = self.path(CONFIG)
        text = file.read_text()
        head = f"\n{table}\n"
        if table.startswith("[[") or head not in text:
            text, rest = text + head, ""
        else:
            text, rest = text.split(head, 1)
            text += head
        file.write_text(text + "".join(f"{line}\n" for line in lines) + rest)

    def reconfigure(self, old, new):
        """Replaces what stands in the configuration file once."""
        file = self.path(CONFIG)
        text = file.read_text()
        same(text.count(old), 1, f"how often the configuration has {old!r}")
        file.write_text(text.replace(old, new))

    # -- wschatctl -------------------------------------------------------------------------------

    def ctl(self, *words, user=None, exits=0):
        return self.run("wschatctl", *words, user=user, exits=exits)

    def ctl_json(self, *words, user=None):
        return json.loads(self.ctl(*words, "--json", user=user))

    def listed(self, user=None):
        """Who is connected: the nicks, sorted; empty for one who has not said hello yet."""
        return sorted(client["nick"] or "" for client in self.ctl_json("list", user=user)["clients"])

    def caller(self, user=None, path=CONTROL):
        """A connection to a control socket, made by another user; raises PermissionError where it may not."""
        return Caller(self, user, path)

    def caller_at_once(self, path=CONTROL):
        """A plain connection to a control socket, made by root; for those who need a thousand."""
        made = socket.socket(socket.AF_UNIX)
        # Without a timeout it waits where the kernel's queue is full; with one it would fail.
        made.connect(str(self.path(path)))
        made.settimeout(DEADLINE)
        return made

    def add_user(self, name, *groups):
        self.run("useradd", "--no-create-home", *(["--groups", ",".join(groups)] if groups else []), name)
        return name

    # -- people ----------------------------------------------------------------------------------

    def client(self, nick, port=chat.PORT):
        return chat.Client(self, nick, port)

    def crowd(self, size, silent=False):
        return Crowd(self, size, silent)

    def health(self, port=chat.PORT):
        """The status that /healthz answers on a new connection."""
        with chat.over_tls(chat.connect(self, port)) as tls:
            return chat.http_status(tls)

    @contextlib.contextmanager
    def newcomers(self, crash=False, port=chat.PORT):
        """Somebody connects again and again meanwhile; none of the attempts may be refused or dropped.

        In a crash those connections are lost that the daemon had taken already: then only the
        refused ones count. At least one attempt gets through before and one after what happens in
        between.
        """
        seen, stop = [], threading.Event()

        def knock():
            while not stop.is_set():
                try:
                    seen.append(self.health(port))
                except (OSError, Failed) as error:
                    seen.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=knock)
        thread.start()
        try:
            wait_for("a first newcomer", lambda: seen)
            yield
            before = len(seen)
            # The first may have begun in the middle of it, the second began afterwards.
            wait_for("later newcomers", lambda: len(seen) >= before + 2)
        finally:
            stop.set()
            thread.join()
        # 503 is a newcomer who came in just before the daemon stopped and is told so.
        turned_away = [answer for answer in seen if answer not in (200, 503)]
        if crash:
            turned_away = [answer for answer in turned_away if "Refused" in answer]
        check(not turned_away, f"{len(turned_away)} of {len(seen)} newcomers were turned away: {turned_away[:3]}")
        same(seen[-1], 200, "the last newcomer's answer")


class Crowd:
    """Many who chat by the JavaScript client, in a process of their own; they come back by themselves.

    Those who are `silent` are there and hear, and say nothing.

    `crowd.mjs` tells what they do and count.
    """

    def __init__(self, house, size, silent):
        self.size = size
        self.silent = silent
        # In the machine's network, and beyond that outside: its clients are no part of what is tested.
        self.process = subprocess.Popen(
            ["nsenter", "-t", str(house.leader), "-n", "--", "node", "--no-warnings", "--experimental-websocket",
             HERE / "crowd.mjs", str(size), str(chat.PORT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # The certificate is the daemon's own.
            env={**os.environ, "NODE_TLS_REJECT_UNAUTHORIZED": "0"},
        )

    def __enter__(self):
        try:
            self.until("everybody to be there", lambda now: now["online"] == self.size)
            if not self.silent:
                self.ask("speak")
                self.until("the first messages", lambda now: now["kept"] >= 2 * self.size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        check(line, "the crowd's process has ended with", self.process.poll())
        return json.loads(line)

    def until(self, what, probe):
        """Waits until the crowd's counts please `probe`, and returns them."""
        last = {}

        def look():
            last.update(self.ask("count"))
            return probe(last)

        try:
            wait_for(what, look)
        except Failed as error:
            raise Failed(f"{error}: {last}") from None
        return last

    def all_well(self, losses):
        """Everybody has lost the connection so many times, is back, and has heard everything once, in order."""
        # They speak on for a while first, to one another again.
        def is_back(now):
            return now["online"] == self.size and now["back"] == self.size * losses

        said = self.until("everybody to be back", is_back)
        self.until("more messages", lambda now: now["kept"] >= said["kept"] + self.size)
        self.ask("hush")
        ended = self.until("every message to be kept and heard", lambda now: now["unsent"] == 0 and now["unheard"] == 0)
        same(ended["wrong"], [], "what went wrong")
        print(f"    {self.size} clients, {ended['kept']} messages")


class Caller:
    """A connection to one of the control sockets, as some user of the machine."""

    # Whose the connection is, the kernel notes when it is made; so a process becomes that user first.
    MAKE = (
        "import os, socket, sys\n"
        "folder, back, uid, gid, *groups = map(int, sys.argv[2:])\n"
        "os.fchdir(folder)\n"
        "os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)\n"
        "made = socket.socket(socket.AF_UNIX)\n"
        "try:\n"
        "    made.connect(sys.argv[1])\n"
        "except PermissionError:\n"
        "    sys.exit(77)\n"
        "socket.send_fds(socket.socket(fileno=back), [b'!'], [made.fileno()])\n"
    )

    def __init__(self, house, user, path):
        numbers = " ".join(house.run("id", word, user or "root").strip() for word in ("-u", "-g", "-G")).split()
        here, there = socket.socketpair()
        folder = os.open(house.path(os.path.dirname(path)), os.O_PATH)
        try:
            ended = subprocess.run(
                [sys.executable, "-c", self.MAKE, os.path.basename(path), str(folder), str(there.fileno()), *numbers],
                pass_fds=[folder, there.fileno()], capture_output=True, text=True,
            )
            if ended.returncode == 77:
                raise PermissionError(f"{user} may not open {path}")
            same(ended.returncode, 0, f"connecting to {path}: {ended.stderr}")
            _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
        finally:
            os.close(folder)
            here.close()
            there.close()
        self.socket = socket.socket(fileno=descriptors[0])
        self.socket.settimeout(DEADLINE)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, parameters, **more):
        self.socket.sendall(json.dumps({"method": method, "parameters": parameters, **more}).encode() + b"\0")

    def answer(self):
        """The next answer: its error, which is None where there is none, and its parameters."""
        while b"\0" not in self.buffer:
            piece = self.socket.recv(65536)
            check(piece, "the control connection ended without an answer")
            self.buffer += piece
        text, self.buffer = self.buffer.split(b"\0", 1)
        reply = json.loads(text)
        return reply.get("error"), reply.get("parameters") or {}

    def call(self, method, **parameters):
        self.send(method, parameters)
        return self.answer()

    def methods(self, interface):
        """The methods that the daemon says an interface has."""
        error, answer = self.call("org.varlink.service.GetInterfaceDescription", interface=interface)
        same(error, None, f"the description of {interface}")
        return re.findall(r"^method (\w+)", answer["description"], re.MULTILINE)


def kill_inside(command, name):
    """Kills, by SIGKILL, the process called `name` that a `Machine.command` has started."""

    def find(pid):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    return int(child)
                if found := find(child):
                    return found
        return None

    os.kill(wait_for(f"a process {name}", lambda: find(command.pid)), signal.SIGKILL)


def repacked(package, scratch, version, change=lambda tree: None):
    """The same package under another version, changed as a folder by `change`."""
    tree = scratch / "repacked"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    change(tree)
    # They would be wrong, and nobody needs them.
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("\n".join(f"Version: {version}" if l.startswith("Version: ") else l for l in lines) + "\n")
    other = scratch / f"wschat_{version}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, other], check=True, stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(tree)
    return other


def version_of(package):
    """The version that a package file says it has."""
    shown = subprocess.run(["dpkg-deb", "--field", package, "Version"], check=True, capture_output=True, text=True)
    return shown.stdout.strip()


def mode_and_owner(machine, path):
    return machine.run("stat", "--format", "%A %U %G", path).strip()


def exposure(text):
    """The figure at the end of `systemd-analyze security`."""
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    check(found, "systemd-analyze printed no exposure level:", text)
    return float(found.group(1))
