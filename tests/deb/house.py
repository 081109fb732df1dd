"""The words in which the cases are told: a machine on which the package is installed.

Owns how wschat is installed, asked, configured and watched on such a machine. What is right and
wrong is for the cases to say.
"""

import contextlib
import json
import re
import subprocess
import threading

import chat
from machine import Failed, Machine, wait_for

CONFIG = "/etc/wschat/wschat.toml"
CONTROL = "/run/wschat/control"


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
        """Adds to the unit, as `systemctl edit` would."""
        self.run("mkdir", "-p", "/etc/systemd/system/wschat.service.d")
        self.path("/etc/systemd/system/wschat.service.d/test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def journal(self, *match):
        """The daemon's entries, oldest first, each with all of its fields."""
        lines = self.run("journalctl", "-q", "-u", "wschat", "-o", "json", "--all", *match).splitlines()
        return [json.loads(line) for line in lines]

    def journal_text(self):
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal())

    # -- configuration ---------------------------------------------------------------------------

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

    # -- wschatctl -------------------------------------------------------------------------------

    def ctl(self, *words, user=None, exits=0):
        return self.run("wschatctl", *words, user=user, exits=exits)

    def ctl_json(self, *words, user=None):
        return json.loads(self.ctl(*words, "--json", user=user))

    def listed(self, user=None):
        """Who is connected: the nicks, sorted."""
        return sorted(client["nick"] for client in self.ctl_json("list", user=user)["clients"])

    def add_user(self, name, *groups):
        self.run("useradd", "--no-create-home", *(["--groups", ",".join(groups)] if groups else []), name)
        return name

    # -- people ----------------------------------------------------------------------------------

    def client(self, nick):
        return chat.Client(self, nick)

    def health(self):
        """The status that /healthz answers on a new connection."""
        with chat.over_tls(chat.connect(self)) as tls:
            return chat.http_status(tls)

    @contextlib.contextmanager
    def newcomers(self, crash=False):
        """Somebody connects again and again meanwhile; none of the attempts may be refused or dropped.

        In a crash those connections are lost that the daemon had taken already: then only the
        refused ones count. At least one attempt gets through before and one after what happens in
        between.
        """
        seen, stop = [], threading.Event()

        def knock():
            while not stop.is_set():
                try:
                    seen.append(self.health())
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


def mode_and_owner(machine, path):
    return machine.run("stat", "--format", "%A %U %G", path).strip()


def exposure(text):
    """The figure at the end of `systemd-analyze security`."""
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    check(found, "systemd-analyze printed no exposure level:", text)
    return float(found.group(1))
