"""Who may do what at the two control sockets, and what becomes of those who abuse them."""

import contextlib
import re
import subprocess
import threading

from house import CONTROL, PUSH, case, check, kill_inside, same
from machine import wait_for

# What strangers are told to join, by the socket that wschatctl opens.
ADMIN, PUSHERS = "wschat-admin", "wschat-push"

SERVICE, OPERATING, PUSHING = "org.varlink.service", "org.wschat.Control", "org.wschat.Push"

# What is answered for what a socket does not have.
UNKNOWN = [f"{SERVICE}.{error}" for error in ("InterfaceNotFound", "MethodNotFound", "MethodNotImplemented")]

# Each command of wschatctl that opens a socket, in a form that changes nothing for anybody who is
# there, and how it ends where there is nobody.
COMMANDS = [
    (["status"], 0),
    (["list"], 0),
    (["show", "999"], 65),
    (["kick", "999"], 65),
    (["notice", "hello", "--allow-empty"], 0),
    (["rooms"], 0),
    (["room", "show", "lobby"], 65),
    (["room", "close", "nowhere"], 65),
    (["room", "purge", "nowhere", "--yes"], 65),
    (["history", "lobby"], 65),
    (["delete", "lobby", "999"], 65),
    (["ban", "add", "user:nobody"], 0),
    (["ban", "list"], 0),
    (["ban", "edit", "999", "--reason", "spam"], 65),
    (["ban", "del", "999"], 65),
    (["mute", "add", "user:nobody"], 0),
    (["mute", "list"], 0),
    (["mute", "edit", "999", "--reason", "spam"], 65),
    (["mute", "del", "999"], 65),
    (["backup", "/nowhere/backup"], 73),
    (["token", "ann"], 78),
    (["drain", "--over", "0s"], 0),
    (["resume"], 0),
    (["reload"], 0),
    (["log-level"], 0),
    (["tls"], 0),
    (["stats"], 0),
    (["ping"], 0),
]

# Those that go on until they are interrupted, or want a terminal; and those that need no daemon.
LIVE, ALONE = ["events", "top"], ["version", "completions", "man", "help"]


def people(house):
    """Who comes to the sockets, and which of them each may open."""
    return {
        None: {CONTROL, PUSH},
        house.add_user("olga", ADMIN): {CONTROL},
        house.add_user("pablo", PUSHERS): {PUSH},
        house.add_user("mallory"): set(),
    }


@case("each of root, wschat-admin, wschat-push and others may open what it should, and calls what that socket has")
def sockets(house, package):
    # Nobody is there: calls without parameters would be for everybody.
    nonsense = {"no_such_parameter": True}
    for user, allowed in people(house).items():
        for path in (CONTROL, PUSH):
            if path not in allowed:
                try:
                    house.caller(user, path).socket.close()
                except PermissionError:
                    continue
                check(False, f"{user} could open {path}")
            has = [OPERATING, PUSHING] if path == CONTROL else [PUSHING]
            with house.caller(user, path) as caller:
                _, info = caller.call(f"{SERVICE}.GetInfo")
                same(info["interfaces"], [SERVICE, *has], f"the interfaces of {path}")
                for interface in has:
                    methods = caller.methods(interface)
                    check(len(methods) > 1, methods)
                    for method in methods:
                        error, _ = caller.call(f"{interface}.{method}", **nonsense)
                        check(error not in UNKNOWN, f"{user} at {path}: {method} is answered with {error}")
    # Backends cannot operate, not even root by their socket.
    for user in (None, "pablo"):
        with house.caller(None, CONTROL) as control, house.caller(user, PUSH) as push:
            for method in control.methods(OPERATING):
                error, told = push.call(f"{OPERATING}.{method}")
                same((error, told.get("interface")), (f"{SERVICE}.InterfaceNotFound", OPERATING), method)
            error, told = push.call(f"{SERVICE}.GetInterfaceDescription", interface=OPERATING)
            same(error, f"{SERVICE}.InterfaceNotFound", "the description")


@case("each command of wschatctl is for root and wschat-admin; others end with 77 and the group's name")
def commands(house, package):
    tried = {words[0] for words, _ in COMMANDS} | {f"{words[0]} {words[1]}" for words, _ in COMMANDS if len(words) > 1}
    named = subcommands(house)
    check(len(named) > 20, "wschatctl --help names few commands:", named)
    for command in named:
        below = subcommands(house, command) if command in ("ban", "mute", "room") else []
        untried = {command, *(f"{command} {word}" for word in below if word not in ALONE)} - tried - {*LIVE, *ALONE}
        same(untried, set(), "commands that nothing here tries")
    for user, allowed in people(house).items():
        for words, exits in COMMANDS:
            ended = house.try_run("wschatctl", *words, user=user)
            if CONTROL in allowed:
                same(ended.returncode, exits, f"{user}: {words}: {ended.stderr}\nexit status")
                continue
            same((ended.returncode, ended.stdout), (77, ""), f"{user}: {words}: exit status and output")
            check(ADMIN in ended.stderr, f"{user}: {words}: no hint of the group:", ended.stderr)


def subcommands(house, *words):
    """What the help says can follow these words."""
    shown = house.ctl(*words, "--help").split("\nCommands:\n", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^  (\S+)", shown, re.MULTILINE)


@case("other users can read neither the history nor a key")
def secrets(house, package):
    with house.client("ann") as ann:
        ann.say("between us")
    files = house.run("find", "/var/lib/wschat", "-type", "f").split()
    for name in ("wschat.db", "guest.key", "self-signed.key"):
        check([path for path in files if path.endswith(name)], f"there is no {name}:", files)
    for user in people(house):
        if user is None:
            continue
        for path in files:
            same(house.try_run("cat", path, user=user).returncode, 1, f"{user} reading {path}: exit status")
        same(house.try_run("ls", "/var/lib/wschat", user=user).returncode, 2, f"{user} listing the folder: exit status")
    # As docs/OPERATING.md has a certificate's key put down.
    house.run("install", "-d", "-m", "0750", "-g", "wschat", "/etc/wschat/tls")
    house.run("install", "-m", "0640", "-g", "wschat", "/var/lib/wschat/tls/self-signed.key", "/etc/wschat/tls/privkey.pem")
    same(house.try_run("cat", "/etc/wschat/tls/privkey.pem", user="olga").returncode, 1, "olga reading a key: exit status")
    house.run("cat", "/etc/wschat/tls/privkey.pem", user="wschat")


@contextlib.contextmanager
def chatting(house):
    """Two people talk meanwhile; what one says, the other hears, and it is acknowledged."""
    house.configure("[limits]", 'rate = "1000/s"', "burst = 1000")
    house.systemctl("reload", "wschat")
    with house.client("ann") as ann, house.client("bob") as bob:
        def exchange(count=5):
            for number in range(count):
                ann.say(f"{number}")
                bob.expect("message", text=f"{number}")

        exchange()
        yield exchange
        exchange()


def until_quiet(house, before):
    wait_for(f"the daemon to have {before} sockets again", lambda: house.sockets() <= before)


@case("a thousand connections and half-sent calls at the control socket stop nobody's chat, and it recovers")
def flood(house, package):
    with chatting(house) as exchange:
        house.ctl("status")
        before = house.sockets()
        half = b'{"method": "org.wschat.Control.ListClients", "parameters": {"fil'
        callers, turned_away = [], 0
        try:
            for number in range(1000):
                caller = house.caller_at_once(CONTROL)
                callers.append(caller)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    caller.sendall(half if number % 2 else b"\xff" * 1000)
                if number % 100 == 0:
                    exchange()
            # The first 64 have all the places, the rest was told so.
            check(house.sockets() <= before + 70, "sockets:", house.sockets(), "before:", before)
            for caller in callers[100:200]:
                with contextlib.suppress(ConnectionResetError):
                    turned_away += b"TooManyConnections" in caller.recv(4096)
            check(turned_away > 50, f"{turned_away} of 100 were told that there are too many")
            exchange()
        finally:
            for caller in callers:
                caller.close()
        wait_for("the socket to answer again", lambda: house.try_run("wschatctl", "status").returncode == 0)
        until_quiet(house, before)
        same(house.listed(), ["ann", "bob"], "connected")


@case("two operators at once: one lists and announces, one watches and kicks")
def two_operators(house, package):
    house.add_user("olga", ADMIN)
    with chatting(house) as exchange:
        before = house.sockets()
        watch = subprocess.Popen(
            house.command("wschatctl", "events", "--json", "--type", "kick,notice,connect", user="olga"),
            stdout=subprocess.PIPE, text=True,
        )
        failed = []

        def first():
            try:
                for number in range(10):
                    check({"ann", "bob"} <= set(house.listed()), "somebody is missing")
                    house.ctl("notice", f"number {number}")
            except Exception as error:  # told below
                failed.append(error)

        thread = threading.Thread(target=first)
        try:
            # It watches once it has seen something.
            with house.client("carl") as carl:
                check(str(carl.id) in watch.stdout.readline(), "carl's connection is not seen")
            thread.start()
            kicked = 0
            for number in range(10):
                with house.client(f"dora{number}") as dora, house.running("wschatctl", "kick", dora.id, user="olga"):
                    _, code, _ = dora.until_closed()
                kicked += code == 4003
                exchange(1)
            thread.join()
            same((kicked, failed), (10, []), "kicked, and what failed meanwhile")
            seen = ""
            while seen.count('"kick"') < 10 or seen.count('"notice"') < 10:
                line = watch.stdout.readline()
                check(line, "the watch has ended:", seen)
                seen += line
        finally:
            kill_inside(watch, "wschatctl")
            watch.wait()
        until_quiet(house, before)


@case("an operator's wschatctl that is killed half-way leaves nothing behind")
def killed_half_way(house, package):
    with chatting(house) as exchange, house.client("slow") as slow:
        house.ctl("status")
        before = house.sockets()
        for words in (["events"], ["history", "lobby", "--follow"], ["kick", slow.id]):
            command = subprocess.Popen(
                house.command("wschatctl", *words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )
            wait_for("its connection", lambda: house.sockets() > before)
            exchange()
            kill_inside(command, "wschatctl")
            command.wait()
            if words[0] != "kick":
                until_quiet(house, before)
        # What was ordered is done all the same. Who is kicked closes, and then his socket goes, too.
        same(slow.until_closed()[1], 4003, "close code")
        until_quiet(house, before - 1)
        # One who asks for everything and goes after the first byte.
        with house.caller() as caller:
            caller.send(f"{OPERATING}.ListClients", {}, more=True)
            caller.socket.recv(1)
        until_quiet(house, before - 1)
        house.ctl("status")
