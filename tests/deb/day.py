"""An operator's day: draining, reloading, looking at logs and numbers, backing up, keeping people out.

Everything by what the package brings, on a machine where people are chatting meanwhile.
"""

import fcntl
import json
import re
import shlex
import subprocess

import chat
from house import CONFIG, case, check, kill_inside, mode_and_owner, same
from machine import Failed, wait_for
from operators import ADMIN

EXAMPLES = "/usr/share/doc/wschat/examples"

OTHER, METRICS = 9601, 9602


def audited(house, words, user):
    """The entry in the journal, at info, in which this operator has done it; once it is there."""
    entries = wait_for(f"{words!r} in the journal", lambda: [
        entry for entry in house.journal(f"USER_NAME={user}") if words in entry["MESSAGE"]
    ])
    same((len(entries), entries[0]["PRIORITY"], entries[0]["_SYSTEMD_UNIT"]), (1, "6", "wschat.service"), words)
    check(entries[0]["UID"].isdigit() and entries[0]["PID"].isdigit(), entries[0])
    return entries[0]


def started(house, *words, user=None, **more):
    """A command that goes on in the background; the caller ends it."""
    return subprocess.Popen(house.command(*words, user=user), stdin=subprocess.DEVNULL, **more)


# -- drain and kick ------------------------------------------------------------------------------


@case("a drain of 100 who chat goes on without its wschatctl, keeps newcomers out until resume, and loses nothing")
def drain(house, package):
    house.add_user("olga", ADMIN)
    house.configure("[shutdown]", 'spread = "2s"')
    house.systemctl("reload", "wschat")
    with house.crowd(100) as crowd:
        waiting = started(
            house, "wschatctl", "drain", "--over", "4s", "--notice", "We move; back soon.", "--wait", user="olga",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        drained = lambda: house.ctl_json("status")["drain"] or {"done": -1, "left": -1}
        wait_for("the first to go", lambda: drained()["done"] > 0)
        kill_inside(waiting, "wschatctl")
        waiting.wait()
        check(drained()["left"] > 0, "all had gone before it was killed")
        shown = wait_for("the drain in systemctl status", lambda: (
            re.search(r'Status: "draining: \d+ of 100 left, until .*Z', house.systemctl("status", "wschat"))
        ))
        print(f"    {shown.group(0)}")
        refused(house)
        wait_for("all to have gone", lambda: drained()["left"] == 0)
        same(house.listed(), [], "connected")
        wait_for("the end in systemctl status", lambda: (
            "drained: all 100 have gone, newcomers are refused" in house.systemctl("status", "wschat")
        ))
        refused(house)
        same(house.show("ActiveState"), "active", "the unit")
        same(house.ctl_json("resume", user="olga")["done"], 100, "how many had gone")
        same(house.health(), 200, "/healthz")
        crowd.all_well(losses=1)
    entry = audited(house, "drains the daemon", "olga")
    same(entry["MATCHED"], "100", "MATCHED")
    audited(house, "took the drain back", "olga")
    house.ctl("resume", exits=65)
    wait_for("systemctl status as ever", lambda: "serving" in house.show("StatusText"))


def refused(house):
    same(house.health(), 503, "/healthz")
    try:
        house.client("late").tls.close()
    except Failed as error:
        check("HTTP/1.1 503 " in str(error), error)
    else:
        check(False, "a newcomer was let in")


@case("kick --rate that is killed half-way kicks nobody any more; the journal says how many it was")
def paced_kick(house, package):
    house.add_user("olga", ADMIN)
    people = [house.client(f"n{number}") for number in range(10)]
    # Nobody answers the close frame here: each is cut, and counts as kicked all the same.
    kicking = started(house, "wschatctl", "kick", "--all", "--yes", "--rate", "1", user="olga", stdout=subprocess.DEVNULL)
    wait_for("the first to be kicked", lambda: len(house.listed()) < 10)
    kill_inside(kicking, "wschatctl")
    kicking.wait()
    entry = audited(house, "kick", "olga")
    same(entry["MATCHED"], "10", "MATCHED")
    left = house.listed()
    print(f"    kicked {entry['DONE']} of {entry['MATCHED']}")
    check(0 < len(left) < 10, "left:", left)
    same(len(left), 10 - int(entry["DONE"]), "who is left")
    kicked = [person for number, person in enumerate(people) if f"n{number}" not in left]
    for person in kicked:
        while (frame := person.read())[0] != chat.CLOSE:
            pass
        same(chat.close_of(frame[1])[0], 4003, "close code")
    for person in people:
        person.tls.close()


# -- reload --------------------------------------------------------------------------------------


def plain_get(house, port, path):
    """The status and the body of the answer of a listener without TLS."""
    with chat.connect(house, port) as plain:
        plain.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := plain.recv(65536):
            answer += piece
    head, body = answer.split(b"\r\n\r\n", 1)
    return int(head.split(b" ", 2)[1]), head.decode(), body.decode()


def is_closed(house, port):
    try:
        chat.connect(house, port).close()
    except ConnectionRefusedError:
        return True
    return False


@case("systemctl reload adds, changes and removes listeners and that of the metrics; nobody is dropped or refused")
def listeners(house, package):
    def stored():
        return int(house.show("NFileDescriptorStore"))

    at_first, pid = stored(), house.pid()
    house.configure("[[listen]]", f'address = "127.0.0.1:{OTHER}"')
    house.configure("[metrics]", f'listen = "127.0.0.1:{METRICS}"')
    with house.client("ann") as ann:
        house.systemctl("reload", "wschat")
        same((house.health(OTHER), plain_get(house, METRICS, "/metrics")[0]), (200, 200), "both new ones answer")
        ann.say("still here")
    same(house.pid(), pid, "the daemon's process")
    wait_for("the new listener to be kept by systemd", lambda: stored() == at_first + 1)
    with house.newcomers(port=OTHER), house.newcomers():
        house.systemctl("restart", "wschat")
    same(stored(), at_first + 1, "kept by systemd after a restart")
    same(plain_get(house, METRICS, "/metrics")[0], 200, "after a restart the metrics answer")

    pid = house.pid()
    with house.client("ann") as ann, house.client("carl", OTHER) as carl:
        def both_are_here():
            ann.say("still here")
            carl.say("I, too")
            ann.expect("message", text="I, too")

        house.reconfigure(f'address = "127.0.0.1:{OTHER}"\n', f'address = "127.0.0.1:{OTHER}"\ntls = false\n')
        house.systemctl("reload", "wschat")
        same(plain_get(house, OTHER, "/healthz")[0], 200, "without TLS now, /healthz")
        both_are_here()

        good = house.path(CONFIG).read_text()
        for mistake, told in (
            ("[[listen]]\naddress = \"192.0.2.99:9603\"\n", "192.0.2.99:9603"),
            ("[[listen]]\naddress = \"127.0.0.1:9604\"\n[no_such_table]\n", "no_such_table"),
        ):
            # What is right beside the mistake is not taken either.
            house.path(CONFIG).write_text(good.replace(f'listen = "127.0.0.1:{METRICS}"', "") + mistake)
            check(house.try_run("systemctl", "reload", "wschat").returncode != 0, "the reload succeeded")
            wait_for(f"{told} in systemctl status", lambda: told in house.systemctl("status", "--full", "wschat"))
            wait_for("the metrics", lambda: plain_get(house, METRICS, "/metrics")[0] == 200)
            check(is_closed(house, 9604), "a listener of a bad file is there")
            same(stored(), at_first + 1, "kept by systemd after a reload that was refused")
            both_are_here()

        gone = f'\n[[listen]]\naddress = "127.0.0.1:{OTHER}"\ntls = false\n'
        house.path(CONFIG).write_text(good.replace(gone, "").replace(f'listen = "127.0.0.1:{METRICS}"', ""))
        house.systemctl("reload", "wschat")
        for port in (OTHER, METRICS):
            wait_for(f"{port} to be closed", lambda: is_closed(house, port))
        wait_for("it to be kept by systemd no longer", lambda: stored() == at_first)
        both_are_here()
    same(house.pid(), pid, "the daemon's process")


# -- the log -------------------------------------------------------------------------------------


@case("log-level debug and back, while people come and go")
def log_level(house, package):
    house.add_user("olga", ADMIN)

    def comes_and_goes():
        with house.client("ann") as ann:
            ann.say("hello")
        # Whatever is told of it is in the journal before this is.
        house.ctl("notice", f"after {ann.id}", "--allow-empty")
        wait_for("the notice", lambda: house.journal(f"TEXT=after {ann.id}"))
        return {entry["PRIORITY"] for entry in house.journal(f"CLIENT={ann.id}")}

    same(comes_and_goes(), set(), "at info, entries about a client are of")
    same(house.ctl_json("log-level", "debug", user="olga"), {"level": "debug", "configured": "info"}, "log-level")
    same(comes_and_goes(), {"7"}, "at debug, entries about a client are of")
    house.systemctl("reload", "wschat")
    same(comes_and_goes(), {"7"}, "after a reload that does not change it")
    house.ctl("log-level", "info")
    same(comes_and_goes(), set(), "at info again")
    audited(house, "debug", "olga")
    house.ctl("log-level", "loud", exits=64)


@case("the access log is in the journal with its fields, and the shipped fail2ban filter finds the offenders in it")
def access(house, package):
    house.configure("[log]", "access = true")
    house.systemctl("reload", "wschat")

    def told(**fields):
        wanted = [f"{name}={value}" for name, value in fields.items()]
        return wait_for(f"{fields} in the journal", lambda: house.journal(*wanted))[-1]

    with house.client("ann") as ann:
        ann.say("hello")
    entry = told(ACCESS="ended", CLIENT=ann.id)
    found = [entry[name] for name in ("ADDRESS", "CODE", "CLOSED_BY", "DIALECT", "USER", "PRIORITY", "REASON")]
    same(found, ["127.0.0.1", "1000", "client", "json", ann.user, "6", ""], "the fields")
    for name in ("SECONDS", "FRAMES_IN", "BYTES_IN", "FRAMES_OUT", "BYTES_OUT"):
        check(float(entry[name]) > 0, f"{name} is {entry[name]}")
    check(entry["MESSAGE"].startswith(f"access: ended 127.0.0.1 1000 client client={ann.id} "), entry["MESSAGE"])

    # Offenders: a frame that is none, of another address, and one who comes back although banned.
    with chat.over_tls(chat.connect(house, source="127.0.0.2")) as tls:
        tls.sendall(b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Version: 13\r\n\r\n")
        check(b" 400 " in tls.recv(4096), "a handshake without a key was not refused")
    told(ACCESS="refused", ADDRESS="127.0.0.2", CODE=400)
    house.ctl("ban", "add", "ip:127.0.0.1", "--yes")
    try:
        house.client("troll").tls.close()
        check(False, "somebody who is banned was let in")
    except Failed as error:
        check("4004" in str(error), error)
    same(told(ACCESS="refused", CODE=4004)["ADDRESS"], "127.0.0.1", "ADDRESS")
    # No offence: what is no TLS, even where it looks like a line.
    with chat.connect(house, source="127.0.0.3") as plain:
        plain.sendall(b"access: refused 8.8.8.8 429 rate\r\n\r\n")
        while plain.recv(4096):
            pass
    told(ACCESS="refused", ADDRESS="127.0.0.3", CODE="tls")

    exported = house.scratch / "journal.txt"
    exported.write_text(house.run("journalctl", "-q", "-u", "wschat", "-o", "short"))
    words = ["fail2ban-regex", "--out", "ip", exported, house.path(f"{EXAMPLES}/fail2ban/filter.conf")]
    ended = subprocess.run(words, capture_output=True, text=True)
    same((ended.returncode, ended.stderr), (0, ""), "fail2ban-regex")
    same(sorted(ended.stdout.split()), ["127.0.0.1", "127.0.0.2"], "whom the filter finds")

    house.reconfigure("access = true\n", "")
    house.systemctl("reload", "wschat")
    house.health()
    house.ctl("notice", "the last", "--allow-empty")
    wait_for("the notice", lambda: house.journal("TEXT=the last"))
    same(len(house.journal("ACCESS=ended")), 1, "connections that have a line")


# -- the numbers ---------------------------------------------------------------------------------


def value_of(text, series):
    """The value of a series in OpenMetrics text."""
    (found,) = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(series + " ")]
    return float(found)


@case("stats, stats --prometheus and the metrics listener tell the same, and the numbers move; rules and dashboard know them")
def numbers(house, package):
    house.add_user("olga", ADMIN)
    house.configure("[metrics]", f'listen = "127.0.0.1:{METRICS}"')
    house.systemctl("reload", "wschat")

    def scraped():
        status, head, text = plain_get(house, METRICS, "/metrics")
        check(status == 200 and "openmetrics-text" in head and text.endswith("\n# EOF\n"), head, text[-200:])
        return text

    def names(text):
        return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))

    before = scraped()
    with house.client("ann") as ann, house.client("bob"):
        for number in range(5):
            ann.say(f"{number}")
        after = wait_for("five messages to be counted", lambda: (
            moved(before, now := scraped(), "wschat_messages_total") == 5 and now
        ))
        same(value_of(after, "wschat_serving"), 1, "wschat_serving")
        check(any(v > 0 for v in series(after, "wschat_connections").values()), "nobody is counted as connected")
    shown = house.ctl("stats", "--prometheus", user="olga")
    same(names(shown), names(scraped()), "metrics")
    listed = house.ctl_json("stats", user="olga")["metrics"]
    same({re.sub("_(total|info)$", "", metric["name"]) for metric in listed}, names(shown), "metrics")
    check("ack_latency" in house.ctl("stats", "ack_latency"), "stats does not know ack_latency")

    known = names(shown)
    for file in ("wschat.rules.yml", "wschat.json"):
        text = house.path(f"{EXAMPLES}/{file}").read_text()
        used = set(re.findall(r"\bwschat_[a-z0-9_]+", text))
        check(len(used) > 10, f"{file} uses few metrics:", used)
        strange = {name for name in used if not {name, re.sub(r"_(total|bucket|sum|count|info)$", "", name)} & known}
        same(strange, set(), f"what {file} uses and the daemon does not know")
    json.loads(house.path(f"{EXAMPLES}/wschat.json").read_text())


def series(text, name):
    """Each series of this name, and its value."""
    found = re.findall(rf"^({name}(?:\{{.*\}})?) (\S+)", text, re.MULTILINE)
    return {label: float(value) for label, value in found}


def moved(before, after, name):
    return sum(series(after, name).values()) - sum(series(before, name).values())


# -- the history ---------------------------------------------------------------------------------


@case("a member of wschat-admin backs the history up; restored as the manual says, the rooms have new epochs")
def backup_and_restore(house, package):
    house.add_user("olga", ADMIN)
    house.run("install", "-d", "-o", "olga", "-m", "0700", "/home/olga")
    file = "/home/olga/wschat.db"
    with house.client("ann") as ann:
        for number in range(3):
            ann.say(f"{number}")
        told = house.ctl_json("backup", file, user="olga")
        same((told["rooms"], told["entries"]), (1, 3), "rooms and entries")
        same(mode_and_owner(house, file), "-rw------- olga olga", file)
        same(house.run("sha256sum", file).split()[0], told["sha256"], "SHA-256")
        house.ctl("backup", file, user="olga", exits=73)
        ann.say("after the backup")
        epoch = ann.joined["epoch"]
    audited(house, "backup", "olga")

    house.systemctl("stop", "wschat")
    house.run("sh", "-ec", "mkdir /var/lib/wschat/old; mv /var/lib/wschat/wschat.db* /var/lib/wschat/old/")
    house.run("install", "-m", "0600", "-o", "wschat", "-g", "wschat", file, "/var/lib/wschat/wschat.db")
    house.systemctl("start", "wschat")
    (room,) = house.ctl_json("rooms", "--stored")["rooms"]
    same((room["name"], room["seq"]), ("lobby", 3), "the room and its newest number")
    check("is a backup or another copy" in house.journal_text(), "the log does not say what it is")
    with house.client("bob") as bob:
        check(bob.joined["epoch"] != epoch, "the room has the old epoch")
        bob.send("history", room="lobby")
        messages = bob.expect("history")["payload"]["messages"]
        same([frame["payload"]["text"] for frame in messages], ["0", "1", "2"], "the history")
        same(bob.say("new")["payload"]["seq"], 4, "the next number")
    # The epoch is a new one once, not at each start.
    epoch = bob.joined["epoch"]
    house.systemctl("restart", "wschat")
    with house.client("bob") as bob:
        same(bob.joined["epoch"], epoch, "the epoch after another restart")


# -- keeping people out --------------------------------------------------------------------------


@case("bans and mutes: added, listed, changed, kept, run out")
def sanctions(house, package):
    house.add_user("olga", ADMIN)
    with house.client("ann") as ann, house.client("bob") as bob:
        added = house.ctl_json("mute", "add", f"user:{ann.user}", "--room", "lobby", "--for", "1h", user="olga")
        number = ann.send("message", room="lobby", text="may I?")
        same(ann.expect("error", re=number)["payload"]["code"], "muted", "who is muted is told")
        house.ctl("mute", "edit", added["id"], "--for", "2d", "--reason", "calm down", user="olga")
        bob.say("I may")
    house.systemctl("restart", "wschat")
    (mute,) = house.ctl_json("mute", "list")["mutes"]
    same([mute[name] for name in ("id", "user", "room", "reason")], [added["id"], ann.user, "lobby", "calm down"], "the mute")
    house.ctl("mute", "edit", added["id"], "--for", "1ms")
    wait_for("the mute to run out", lambda: house.ctl_json("mute", "list")["mutes"] == [])
    house.ctl("mute", "edit", added["id"], "--for", "1h", exits=65)

    with house.client("eve") as eve:
        with house.running("wschatctl", "ban", "add", f"user:{eve.user}", "--reason", "spam", user="olga"):
            same(eve.until_closed()[1:], (4004, "spam"), "who is banned sees")
    (ban,) = house.ctl_json("ban", "list")["bans"]
    same((ban["user"], ban["reason"]), (eve.user, "spam"), "the ban")
    house.ctl("ban", "edit", ban["id"], "--for", "1ms", user="olga")
    wait_for("the ban to run out", lambda: house.ctl_json("ban", "list")["bans"] == [])
    house.ctl("ban", "del", ban["id"], exits=65)
    for words in ("put mute", "changed mute", "put ban", "changed ban"):
        audited(house, words, "olga")


# -- many ----------------------------------------------------------------------------------------


@case("list shows 500 who are there; one that is killed in the middle leaves nothing behind")
def many(house, package):
    with house.crowd(500, silent=True):
        same(sorted(house.listed()), sorted(f"p{number}" for number in range(500)), "connected")
        first = house.ctl_json("list", "--sort=-age", "--limit", 10, "-o", "id")["clients"]
        same([client["id"] for client in first], sorted(client["id"] for client in first), "the oldest first")
        before = house.sockets()
        for words in (["list"], ["list", "--json"], ["list", "--sort", "nick"]):
            listing = started(house, "wschatctl", *words, stdout=subprocess.PIPE)
            # Its reader is slow, so that it waits in the middle.
            fcntl.fcntl(listing.stdout, fcntl.F_SETPIPE_SZ, 4096)
            listing.stdout.read(1)
            kill_inside(listing, "wschatctl")
            listing.wait()
            listing.stdout.close()
            wait_for(f"{words} to be gone", lambda: house.sockets() <= before)
        callers = [house.caller() for _ in range(5)]
        for caller in callers:
            caller.send("org.wschat.Control.ListClients", {}, more=True)
            caller.socket.recv(1)
            caller.socket.close()
        wait_for("the callers to be gone", lambda: house.sockets() <= before)
        same(house.ctl_json("list", "--count"), {"count": 500}, "connected")


@case("wschatctl top in a terminal of 80 by 24: a member of the group looks, kicks and leaves it clean")
def top(house, package):
    house.add_user("olga", ADMIN)
    house.add_user("mallory")
    tmux = ["tmux", "-S", str(house.scratch / "tmux"), "-f", "/dev/null"]

    def ask(*words):
        return subprocess.run([*tmux, *words], check=True, capture_output=True, text=True).stdout

    def shows(*texts):
        def look():
            screen = ask("capture-pane", "-p")
            return all(text in screen for text in texts) and screen
        return wait_for(f"{texts} on the screen", look)

    def begin(user):
        command = shlex.join(house.command("env", "TERM=screen", "wschatctl", "top", user=user))
        ask("respawn-pane", "-k", "sh", "-c", f"{command}; echo ended $?; exec cat")

    ask("new-session", "-d", "-x", "80", "-y", "24", "cat")
    try:
        begin("mallory")
        shows("wschat-admin", "ended 77")
        with house.client("ann"), house.client("bob") as bob:
            begin("olga")
            screen = shows("serving", "ann", "bob", "lobby")
            lines = screen.rstrip("\n").split("\n")
            check(len(lines) == 24 and max(map(len, lines)) <= 80, screen)
            same(ask("display", "-p", "#{alternate_on}").strip(), "1", "on a screen of its own")
            ask("send-keys", "-l", "/--nick bob")
            ask("send-keys", "Enter")
            wait_for("bob alone", lambda: " ann " not in shows(" bob "))
            ask("send-keys", "Down")
            wait_for("bob to be chosen", lambda: re.search(r"^>.* bob ", ask("capture-pane", "-p"), re.MULTILINE))
            ask("send-keys", "k")
            shows("(bob, 127.0.0.1)? y kicks")
            ask("send-keys", "y")
            same(bob.until_closed()[1], 4003, "close code")
            ask("send-keys", "q")
            shows("ended 0")
            same(ask("display", "-p", "#{alternate_on} #{cursor_flag}").strip(), "0 1", "the terminal")
        audited(house, "kick", "olga")
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True)
