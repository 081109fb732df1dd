"""What an operator of Debian 12 is promised, case by case.

Each case gets a freshly booted machine of its own, with the package installed unless it says
otherwise, and leaves it as it likes.
"""

import json
import os
import socket
import subprocess

import chat
from house import CONFIG, CONTROL, PUSH, case, check, mode_and_owner, repacked, same, version_of
from machine import DEADLINE, Failed, wait_for

# What a package must bring, besides what the daemon makes for itself.
SHIPPED = [
    "/usr/bin/wschat",
    "/usr/bin/wschatctl",
    "/usr/lib/systemd/system/wschat.service",
    "/usr/lib/sysusers.d/wschat.conf",
    "/usr/share/bash-completion/completions/wschatctl",
    "/usr/share/doc/wschat/CONTROL.md",
    "/usr/share/doc/wschat/OPERATING.md",
    "/usr/share/doc/wschat/PROTOCOL.md",
    "/usr/share/doc/wschat/changelog.gz",
    "/usr/share/doc/wschat/copyright",
    "/usr/share/doc/wschat/examples/fail2ban/filter.conf",
    "/usr/share/doc/wschat/examples/fail2ban/jail.conf",
    "/usr/share/doc/wschat/examples/wschat.json",
    "/usr/share/doc/wschat/examples/wschat.rules.yml",
    "/usr/share/doc/wschat/examples/wschat.socket",
    "/usr/share/fish/vendor_completions.d/wschatctl.fish",
    "/usr/share/man/man1/wschatctl.1.gz",
    "/usr/share/man/man5/wschat.toml.5.gz",
    "/usr/share/man/man7/wschat-metrics.7.gz",
    "/usr/share/man/man8/wschat.8.gz",
    "/usr/share/wschat/wschat.toml",
    "/usr/share/zsh/vendor-completions/_wschatctl",
]

# -- installing ----------------------------------------------------------------------------------


@case("apt installs the package, and the daemon serves", installed=False)
def install(house, package):
    house.install(package)
    same(house.show("ActiveState"), "active", "the unit")
    same(house.systemctl("is-enabled", "wschat").strip(), "enabled", "at the next boot the unit is")
    same(house.show("NRestarts"), "0", "restarts")
    same(house.health(), 200, "/healthz")
    same(house.listed(), [], "connected")
    same(house.path(CONFIG).read_text(), house.path("/usr/share/wschat/wschat.toml").read_text(), CONFIG)
    same(mode_and_owner(house, CONFIG), "-rw-r--r-- root root", CONFIG)


@case("every promised file is there, and only root may write to it")
def files(house, package):
    missing = [path for path in SHIPPED if not house.exists(path)]
    same(missing, [], "missing")
    for path in SHIPPED:
        info = house.path(path).stat()
        check(info.st_uid == 0 and not info.st_mode & 0o022, path, "can be changed by others")
    shipped = [path for path in SHIPPED if path.startswith("/usr/share/") and not path.endswith(".gz")]
    check(all(house.path(path).stat().st_size for path in shipped), "empty files in", shipped)
    house.run("bash", "-n", "/usr/share/bash-completion/completions/wschatctl")


@case("the package has the program's version")
def version(house, package):
    packaged = house.run("dpkg-query", "--show", "--showformat", "${Version}", "wschat")
    same(house.run("wschat", "--version").split()[-1], packaged, "wschat --version")
    check(packaged in house.ctl("version"), "wschatctl version does not name", packaged)


@case("systemctl status is green and says who is there")
def status(house, package):
    with house.client("ann"):
        wait_for("the client in the status", lambda: "1 client" in house.show("StatusText"))
        shown = house.systemctl("status", "wschat")
        check("Active: active (running)" in shown, shown)
        check("1 client" in shown and "room" in shown, "the status names no clients and rooms:", shown)


@case("the user and the groups are made")
def users(house, package):
    name, _, uid, _, _, home, shell = house.run("getent", "passwd", "wschat").strip().split(":")
    check(0 < int(uid) < 1000, "wschat is no system user:", uid)
    same((home, shell), ("/var/lib/wschat", "/usr/sbin/nologin"), "home and shell")
    groups = house.run("id", "--name", "--groups", "wschat").split()
    same(groups, ["wschat"], "groups of wschat")
    for group in ("wschat-admin", "wschat-push"):
        same(house.run("getent", "group", group).strip().split(":")[3], "", f"members of {group}")
    owner = os.stat(f"/proc/{house.leader}/root/proc/{house.pid()}").st_uid
    same(owner, int(uid), "the daemon runs as")


@case("folders and sockets have the owners and modes that the documents name")
def modes(house, package):
    same(mode_and_owner(house, "/run/wschat"), "drwxr-xr-x wschat wschat", "/run/wschat")
    same(mode_and_owner(house, CONTROL), "srw-rw---- wschat wschat-admin", CONTROL)
    same(mode_and_owner(house, PUSH), "srw-rw---- wschat wschat-push", PUSH)
    same(mode_and_owner(house, "/var/lib/wschat"), "drwxr-x--- wschat wschat", "/var/lib/wschat")
    same(mode_and_owner(house, "/etc/wschat"), "drwxr-xr-x root root", "/etc/wschat")
    readable = house.run("find", "/var/lib/wschat", "-type", "f", "-perm", "/077").split()
    same(readable, [], "others may read")


@case("the sandbox is in force")
def sandbox(house, package):
    lines = house.path(f"/proc/{house.pid()}/status").read_text().splitlines()
    found = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    same(found["NoNewPrivs"], "1", "NoNewPrivs")
    same(found["Seccomp"], "2", "Seccomp")
    same({found[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}, {""}, "capabilities")


# -- people and operators ------------------------------------------------------------------------


@case("two people chat over wss")
def talk(house, package):
    with house.client("ann") as ann, house.client("bob") as bob:
        ack = ann.say("hello, 世界")
        heard = bob.expect("message", text="hello, 世界")
        same(heard["payload"]["from"]["nick"], "ann", "from")
        same(heard["seq"], ack["payload"]["seq"], "the number of the message")


@case("root and members of wschat-admin list, kick, announce and ask for the status")
def operators(house, package):
    house.add_user("olga", "wschat-admin")
    for operator in (None, "olga"):
        with house.client("ann") as ann, house.client("bob") as bob:
            same(house.listed(user=operator), ["ann", "bob"], "connected")
            check("serving" in house.ctl("status", user=operator), "status does not say that the daemon serves")
            house.ctl("notice", "tea is ready", user=operator)
            for person in (ann, bob):
                person.expect("notice", text="tea is ready")
            with house.running("wschatctl", "kick", ann.id, "--reason", "no shouting", user=operator):
                frames, code, reason = ann.until_closed()
            same((code, reason), (4003, "no shouting"), "the kicked one sees")
            same(frames[-1]["type"], "bye", "before the close frame comes")
            same(house.listed(user=operator), ["bob"], "still connected")
            bob.say("still here")


@case("everybody else is refused, and told which group to join")
def strangers(house, package):
    house.add_user("mallory")
    with house.client("ann") as ann:
        for words in (["list"], ["status"], ["notice", "hi"], ["kick", ann.id], ["reload"]):
            ended = house.try_run("wschatctl", *words, user="mallory")
            same(ended.returncode, 77, f"wschatctl {words[0]} ended with")
            same(ended.stdout, "", "on standard output")
            check("wschat-admin" in ended.stderr, "no hint of the group:", ended.stderr)
        ann.say("unharmed")


@case("wschatctl says so when the daemon does not run")
def unreachable(house, package):
    house.systemctl("stop", "wschat")
    ended = house.try_run("wschatctl", "list")
    same(ended.returncode, 69, "wschatctl list ended with")
    check("systemctl start wschat" in ended.stderr, "no hint what to start:", ended.stderr)


@case("what operators change is in the journal: who, what, and to whom")
def audit(house, package):
    with house.client("ann") as ann, house.running("wschatctl", "kick", ann.id, "--reason", "no shouting"):
        ann.until_closed()

    def kicked():
        entries = house.journal("SYSLOG_IDENTIFIER=wschat")
        return [entry for entry in entries if "kick" in json.dumps(entry).lower()]

    entry = wait_for("the kick in the journal", kicked)[-1]
    same(entry["_SYSTEMD_UNIT"], "wschat.service", "_SYSTEMD_UNIT")
    check(entry.get("UID") == "0" or "uid" in entry["MESSAGE"], "the journal does not say who it was:", entry)


@case("each connection is in the journal at the level debug, with fields")
def fields(house, package):
    house.configure("[log]", 'level = "debug"')
    house.systemctl("restart", "wschat")
    with house.client("ann") as ann:
        ann.say("hello")

    def told():
        """What the entries about this client say, by field."""
        seen = {}
        for entry in house.journal("SYSLOG_IDENTIFIER=wschat", f"CLIENT={ann.id}"):
            check("PRIORITY" in entry and entry["_SYSTEMD_UNIT"] == "wschat.service", entry)
            for name in ("USER", "ADDRESS", "ROOM"):
                seen.setdefault(name, set()).update([entry[name]] if name in entry else [])
        return seen if seen and all(seen.values()) else None

    seen = wait_for("entries with CLIENT, USER, ADDRESS and ROOM", told)
    same(seen["USER"], {ann.user}, "USER")
    same(seen["ROOM"], {"lobby"}, "ROOM")
    check(all(address.startswith("127.0.0.1") for address in seen["ADDRESS"]), "ADDRESS:", seen["ADDRESS"])


# -- reload, restart, stop -----------------------------------------------------------------------


@case("systemctl reload brings a changed configuration into force and disturbs nobody")
def reload(house, package):
    with house.client("ann") as ann:
        house.configure("[limits]", 'text = "1KiB"')
        pid = house.pid()
        house.systemctl("reload", "wschat")
        with house.client("bob") as bob:
            same(bob.welcome["limits"]["text"], 1024, "the limit told to a newcomer")
        ann.say("still here")
        same(house.pid(), pid, "the daemon's process")


@case("systemctl reload fails on a bad file, says why, and the daemon goes on")
def bad_reload(house, package):
    with house.client("ann") as ann:
        pid = house.pid()
        house.configure("[limits]", "flyng_pigs = 3")
        check(house.try_run("systemctl", "reload", "wschat").returncode != 0, "the reload succeeded")
        wait_for("the mistake in the journal", lambda: "flyng_pigs" in house.journal_text())
        same(house.show("ActiveState"), "active", "the unit")
        same(house.pid(), pid, "the daemon's process")
        ann.say("still here")
        same(house.health(), 200, "/healthz")


@case("a bad file at the start ends in 78, and is not tried again and again")
def bad_start(house, package):
    house.configure("[limits]", "flyng_pigs = 3")
    check(house.try_run("systemctl", "restart", "wschat").returncode != 0, "the start succeeded")
    same(house.show("ActiveState"), "failed", "the unit")
    same(house.show("ExecMainStatus"), "78", "exit status")
    same(house.show("NRestarts"), "0", "restarts")
    wait_for("the mistake in the journal", lambda: "flyng_pigs" in house.journal_text())


@case("systemctl restart says goodbye to people and refuses no newcomer")
def restart(house, package):
    with house.client("ann") as ann:
        pid = house.pid()
        with house.newcomers(), house.running("systemctl", "restart", "wschat"):
            frames, code, _ = ann.until_closed()
        same(code, 1001, "close code")
        goodbye = frames[-1]
        same((goodbye["type"], goodbye["payload"]["code"]), ("bye", 1001), "before the close frame comes")
        check(goodbye["payload"]["reconnect"] is True, "nobody is asked to come back:", goodbye)
        check(house.until_active() != pid, "the same process still runs")
        same(house.show("NRestarts"), "0", "restarts by systemd itself")


@case("who connects while no daemon runs at all waits for the next one")
def waiting_room(house, package):
    hold_up_the_start(house)
    waiting = chat.connect(house)
    house.run("touch", "/var/lib/wschat/go")
    with chat.over_tls(waiting) as tls:
        same(chat.http_status(tls), 200, "the one who waited is answered")


def hold_up_the_start(house):
    """Restarts; the next daemon starts only once a file appears, until then there is none at all."""
    house.drop_in("[Service]\nExecStartPre=/bin/sh -c 'until [ -e /var/lib/wschat/go ]; do sleep 0.05; done'\n")
    house.systemctl("restart", "--no-block", "wschat")
    wait_for("the start to be held up", lambda: house.show("SubState") == "start-pre")
    same(house.show("MainPID"), "0", "the daemon")


@case("a proxy on a Unix socket waits for the next daemon too")
def waiting_proxy(house, package):
    path = "/run/wschat/http.sock"
    house.configure("[[listen]]", f'address = "{path}"', "tls = false")
    house.systemctl("restart", "wschat")
    hold_up_the_start(house)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.settimeout(DEADLINE)
        waiting.connect(str(house.path(path)))
        house.run("touch", "/var/lib/wschat/go")
        same(chat.http_status(waiting), 200, "the one who waited is answered")


@case("systemctl stop says goodbye, ends with 0 and leaves no socket")
def stop(house, package):
    with house.client("ann") as ann, house.running("systemctl", "stop", "wschat"):
        frames, code, _ = ann.until_closed()
    same((frames[-1]["type"], code), ("bye", 1001), "the last frame and the close code")
    same(house.show("ActiveState"), "inactive", "the unit")
    same((house.show("Result"), house.show("ExecMainStatus")), ("success", "0"), "result and exit status")
    check(not house.exists("/run/wschat"), "/run/wschat is still there")
    try:
        chat.connect(house).close()
    except ConnectionRefusedError:
        return
    raise Failed("somebody still listens")


@case("a killed daemon is back at once, and newcomers do not notice")
def killed(house, package):
    pid = house.pid()
    with house.newcomers(crash=True):
        house.signal("KILL")
        house.until_active(other_than=pid)
    same(house.show("NRestarts"), "1", "restarts")
    same(house.listed(), [], "connected")
    same(mode_and_owner(house, CONTROL), "srw-rw---- wschat wschat-admin", CONTROL)


@case("what was said, and who is banned, outlasts a restart, SIGKILL and stop with start")
def kept(house, package):
    said = []

    def speak(text):
        with house.client("ann") as ann:
            said.append((ann.say(text)["payload"]["seq"], text))

    def found():
        messages = house.ctl_json("history", "lobby")["messages"]
        same([(frame["seq"], frame["payload"]["text"]) for frame in messages], said, "what is stored")
        same([ban["user"] for ban in house.ctl_json("ban", "list")["bans"]], ["troll"], "who is banned")

    house.ctl("ban", "add", "user:troll", "--reason", "spam")
    speak("before everything")
    house.systemctl("restart", "wschat")
    found()
    speak("after a restart")
    pid = house.pid()
    house.signal("KILL")
    house.until_active(other_than=pid)
    found()
    speak("after being killed")
    house.systemctl("stop", "wschat")
    house.systemctl("start", "wschat")
    house.until_active()
    found()
    with house.client("bob") as bob:
        same(bob.joined["seq"], 3, "the room's newest number")
    database = "/var/lib/wschat/wschat.db"
    same(mode_and_owner(house, database), "-rw------- wschat wschat", database)
    same(house.ctl_json("status")["history"]["path"], database, "where status says it is")


@case("the watchdog is fed, and ends a daemon that hangs")
def watchdog(house, package):
    check(house.show("WatchdogUSec") not in ("0", "infinity"), "no watchdog is set")
    house.drop_in("[Service]\nWatchdogSec=1s\n")
    house.systemctl("restart", "wschat")
    pid = house.pid()
    fed = house.show("WatchdogTimestampMonotonic")
    wait_for("two feedings", lambda: house.show("WatchdogTimestampMonotonic") not in (fed, ""))
    fed = house.show("WatchdogTimestampMonotonic")
    wait_for("two feedings", lambda: house.show("WatchdogTimestampMonotonic") != fed)
    same(house.pid(), pid, "the daemon's process")
    house.signal("STOP")
    house.until_active(other_than=pid)
    wait_for("word of the watchdog in the journal", lambda: "atchdog" in house.journal_text())
    same(house.health(), 200, "/healthz")


@case("a second daemon on the taken port says so and leaves the first alone")
def taken_port(house, package):
    ended = second_daemon(house, control="/tmp/second/control", address=f"127.0.0.1:{chat.PORT}")
    check(str(chat.PORT) in ended.stderr, "the port is not named:", ended.stderr)


@case("a second daemon on the live control socket says so and leaves the first alone")
def taken_socket(house, package):
    ended = second_daemon(house, control=CONTROL, address="127.0.0.1:0")
    check(CONTROL in ended.stderr, "the socket is not named:", ended.stderr)


def second_daemon(house, control, address):
    """Starts another daemon, which must give up; the first one and its people stay."""
    house.run("install", "--directory", "--owner=wschat", "--group=wschat", "/tmp/second")
    house.path("/tmp/second/wschat.toml").write_text(
        f'[control]\nsocket = "{control}"\npush_socket = "/tmp/second/push"\n[[listen]]\naddress = "{address}"\n'
    )
    with house.client("ann") as ann:
        ended = house.try_run(
            "env", "HOME=/tmp/second", "XDG_STATE_HOME=/tmp/second", "XDG_RUNTIME_DIR=/tmp/second",
            "timeout", "--kill-after=1", "60", "wschat", "--config", "/tmp/second/wschat.toml", user="wschat",
        )
        check(ended.returncode not in (0, 78, 124, 137), "it ended with", ended.returncode, ended.stderr)
        same(house.listed(), ["ann"], "connected")
        ann.say("still here")
    return ended


# -- upgrade, remove, purge ----------------------------------------------------------------------


@case("an upgrade keeps configuration and state, restarts the daemon and refuses nobody")
def upgrade(house, package):
    house.configure("[limits]", 'text = "1KiB"')
    config = house.path(CONFIG).read_text()
    house.systemctl("reload", "wschat")
    state = state_of(house)
    check(state, "the daemon has no state to keep")
    newer = repacked(package, house.scratch, version_of(package) + "+upgrade")
    with house.client("ann") as ann:
        ann.say("before the upgrade")
        pid = house.pid()
        with house.newcomers(), house.running("apt-get", "install", "-y", house.put(newer)):
            _, code, _ = ann.until_closed()
        same(code, 1001, "close code")
    check(house.until_active() != pid, "the same process still runs")
    same(house.path(CONFIG).read_text(), config, "the configuration")
    same(state_of(house), state, "the state")
    with house.client("bob") as bob:
        same(bob.welcome["limits"]["text"], 1024, "the configured limit")
        bob.send("history", room="lobby")
        (message,) = bob.expect("history")["payload"]["messages"]
        same(message["payload"]["text"], "before the upgrade", "the history")
    upgraded = house.run("dpkg-query", "--show", "--showformat", "${Version}", "wschat")
    check(upgraded.endswith("+upgrade"), "the version is", upgraded)


def state_of(house):
    """What must outlive an upgrade: the certificate that the daemon made, and its key."""
    return house.run("find", "/var/lib/wschat", "-name", "self-signed.*", "-exec", "sha256sum", "{}", "+")


@case("remove stops the daemon and keeps what the operator would miss")
def remove(house, package):
    house.configure("# mine")
    house.run("apt-get", "remove", "-y", "wschat")
    check(not house.exists("/usr/bin/wschat"), "/usr/bin/wschat is still there")
    check(not house.exists("/run/wschat"), "/run/wschat is still there")
    check("# mine" in house.path(CONFIG).read_text(), "the configuration is gone")
    check(state_of(house), "the state is gone")
    house.install(package)
    same(house.health(), 200, "installed again, /healthz")
    check("# mine" in house.path(CONFIG).read_text(), "installed again, the configuration is gone")


@case("purge leaves nothing but the user and the groups")
def purge(house, package):
    house.run("apt-get", "purge", "-y", "wschat")
    left = house.run("find", "/etc", "/usr", "/var", "/run", "-xdev", "-name", "*wschat*").split()
    # Logs and caches of Debian's own tools name every package for ever.
    left = [path for path in left if not path.startswith(("/var/log/", "/var/cache/"))]
    same([path for path in left if path != "/etc/wschat-test-root"], [], "left")
    same(house.systemctl("is-system-running").strip(), "running", "the machine")
    failed = house.systemctl("--failed", "--plain", "--no-legend").strip()
    same(failed, "", "failed units")
    house.install(package)
    same(house.health(), 200, "installed again, /healthz")


# -- checks of the package and the unit by others ------------------------------------------------


@case("lintian finds no errors and no warnings", installed=False)
def lintian(house, package):
    words = ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", str(package)]
    ended = subprocess.run(words, capture_output=True, text=True)
    same(ended.returncode, 0, f"lintian:\n{ended.stdout}{ended.stderr}\nexit status")
    check(not [line for line in ended.stdout.splitlines() if line.startswith(("E:", "W:"))], ended.stdout)
