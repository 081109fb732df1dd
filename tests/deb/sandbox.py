"""The unit's sandbox: how narrow it is, that everything works in it, and how operators make it narrower."""

import errno
import re

import chat
from house import CONFIG, CONTROL, PUSH, case, check, exposure, mode_and_owner, same
from machine import wait_for

# The unit's exposure by `systemd-analyze security`, where 10 is worst: what serving a network and
# telling callers' users apart makes by itself.
MOST_EXPOSED = 1.2

UNIT = "/usr/lib/systemd/system/wschat.service"

CERTIFICATE = "/run/credentials/wschat.service/tls.crt"


@case("systemd-analyze verifies the unit, and the socket unit that is offered")
def verify(house, package):
    house.run("cp", "/usr/share/doc/wschat/examples/wschat.socket", "/etc/systemd/system/")
    for unit in ("wschat.service", "wschat.socket"):
        ended = house.try_run("systemd-analyze", "verify", "--man=no", unit)
        same((ended.returncode, ended.stdout, ended.stderr), (0, "", ""), f"systemd-analyze verify {unit}")


@case("systemd-analyze measures the exposure, and the unit explains each point that remains")
def security(house, package):
    text = house.run("systemd-analyze", "security", "--offline=yes", "--no-pager", "wschat.service")
    print(f"    exposure {exposure(text)} (at most {MOST_EXPOSED})")
    check(exposure(text) <= MOST_EXPOSED, text)
    counted = [line.split()[1] for line in text.splitlines() if line.startswith("✗")]
    check(counted, "nothing is counted:", text)
    explained = re.findall(r"^# - (\S+=\S*): ", house.path(UNIT).read_text(), re.MULTILINE)
    same(sorted(explained), sorted(counted), "what the unit explains")


@case("inside the sandbox the certificate that the daemon makes names the machine's own addresses")
def own_addresses(house, package):
    add_addresses(house)
    house.run("rm", "-r", "/var/lib/wschat/tls")
    house.systemctl("restart", "wschat")
    names = house.ctl_json("tls")["certificate"]["names"]
    for name in ("localhost", "127.0.0.1", "192.0.2.17", "2001:db8::17"):
        check(name in names, f"{name} is not in the certificate:", names)
    check(not [name for name in names if name.startswith("fe80")], "a link-local address is:", names)


def add_addresses(house):
    """Two addresses for loopback, by systemd's own networkd: the machine has no ip(8)."""
    house.path("/etc/systemd/network").mkdir(exist_ok=True)
    house.path("/etc/systemd/network/lo.network").write_text(
        "[Match]\nName=lo\n[Network]\nAddress=192.0.2.17/24\nAddress=2001:db8::17/64\n"
    )
    house.systemctl("start", "systemd-networkd")
    wait_for("the addresses", lambda: (
        "192.0.2.17" in house.run("cat", "/proc/net/fib_trie")
        and "20010db8000000000000000000000017" in house.run("cat", "/proc/net/if_inet6")
    ))


@case("the sockets are given to their groups wherever they are, at each start, and to nobody before")
def given(house, package):
    house.run("install", "-d", "-o", "wschat", "-m", "0755", "/run/elsewhere")
    house.configure("[control]", 'socket = "/run/elsewhere/c"', 'push_socket = "/run/elsewhere/p"')
    house.drop_in("[Service]\nReadWritePaths=/run/elsewhere\n")
    house.systemctl("restart", "wschat")
    places = {"/run/elsewhere/c": "wschat-admin", "/run/elsewhere/p": "wschat-push"}
    for path, group in places.items():
        same(mode_and_owner(house, path), f"srw-rw---- wschat {group}", path)
    pid = house.pid()
    house.signal("KILL")
    house.until_active(other_than=pid)
    for path, group in places.items():
        same(mode_and_owner(house, path), f"srw-rw---- wschat {group}", path)
    # Before, and without it, they are the daemon's own. The chat goes on all the same.
    house.drop_in("[Service]\nReadWritePaths=/run/elsewhere\nExecStartPost=\n")
    house.systemctl("restart", "wschat")
    for path in places:
        same(mode_and_owner(house, path), "srw------- wschat wschat", path)
    same(house.health(), 200, "/healthz")
    same(house.warnings(), [], "warnings in the journal")


@case("what a broken-in daemon puts in a socket's place is given to nobody")
def traps(house, package):
    house.run("install", "-m", "0600", "/dev/null", "/root/secret")
    for trap in (["ln", "-s", "/root/secret", CONTROL], ["ln", "-s", "/run/systemd/private", CONTROL], ["touch", CONTROL]):
        house.run("rm", "-f", CONTROL)
        house.run(*trap, user="wschat")
        ended = house.try_run(
            "env", f"MAINPID={house.pid()}", "RUNTIME_DIRECTORY=/run/wschat", "wschat", "--config", CONFIG, "--give-sockets",
        )
        same(ended.returncode, 1, f"after {trap}: {ended.stderr}\nexit status")
        check(CONTROL in ended.stderr and "left alone" in ended.stderr, ended.stderr)
    same(mode_and_owner(house, "/root/secret"), "-rw------- root root", "/root/secret")
    check(" root root" in mode_and_owner(house, "/run/systemd/private"), "systemd's own socket was given away")
    same(mode_and_owner(house, PUSH), "srw-rw---- wschat wschat-push", PUSH)


# -- drop-ins, as docs/OPERATING.md has them under "Narrower still" --------------------------------


@case("narrower: a user that exists only while the daemon runs, with the state that was there before")
def dynamic_user(house, package):
    house.add_user("olga", "wschat-admin")
    with house.client("ann") as ann:
        ann.say("before")
    house.systemctl("stop", "wschat")
    house.drop_in("[Service]\nDynamicUser=yes\nUser=wschat-dynamic\nGroup=wschat-dynamic\nRuntimeDirectoryPreserve=no\n")
    house.systemctl("start", "wschat")
    uid = house.run("stat", "--format", "%u", f"/proc/{house.pid()}").strip()
    check(61184 <= int(uid) <= 65519, "that is no user for the while:", uid)
    owner = house.run("stat", "--format", "%A %u %G", CONTROL).strip()
    same(owner, f"srw-rw---- {uid} wschat-admin", CONTROL)
    check("serving" in house.ctl("status", user="olga"), "an operator is not let in")
    for _ in range(2):
        with house.client("bob") as bob:
            bob.say("after")
        with house.newcomers():
            house.systemctl("restart", "wschat")
        house.systemctl("reload", "wschat")
    texts = [frame["payload"]["text"] for frame in house.ctl_json("history", "lobby")["messages"]]
    same(texts, ["before", "after", "after"], "the history")
    # And back: systemd gives the state to the user wschat again.
    house.systemctl("stop", "wschat")
    house.drop_in("")
    house.systemctl("start", "wschat")
    same(len(house.ctl_json("history", "lobby")["messages"]), 3, "messages")


@case("narrower: certificate, key and token secret as credentials; a restart takes new ones, a reload does not")
def credentials(house, package):
    def put_down():
        """Puts the certificate that the daemon has made where only root may read it."""
        house.run("sh", "-c", "umask 077; mkdir -p /root/keys; cp /var/lib/wschat/tls/self-signed.* /root/keys/")
        return fingerprint()

    def fingerprint():
        return certificate()["fingerprint"]

    def certificate():
        return house.ctl_json("tls")["certificate"]

    first = put_down()
    house.run("sh", "-c", "umask 077; echo 0123456789012345678901234567890123456789 > /root/keys/token")
    house.drop_in(
        "[Service]\nLoadCredential=tls.crt:/root/keys/self-signed.crt\nLoadCredential=tls.key:/root/keys/self-signed.key\n"
        "LoadCredential=token.secret:/root/keys/token\n"
    )
    without = house.path(CONFIG).read_text()
    house.configure("[tls]", f'certificate = "{CERTIFICATE}"', 'key = "/run/credentials/wschat.service/tls.key"')
    house.configure("[auth]", 'secret_file = "/run/credentials/wschat.service/token.secret"')
    within = house.path(CONFIG).read_text()
    house.systemctl("restart", "wschat")
    same((fingerprint(), certificate()["source"]), (first, CERTIFICATE), "the certificate in force")
    check(house.ctl("token", "ann").count(".") == 2, "no token is made")
    same(house.warnings(), [], "warnings in the journal")

    # The next certificate comes, while the daemon runs that was started with the first.
    house.path(CONFIG).write_text(without)
    house.run("rm", "-r", "/var/lib/wschat/tls")
    house.systemctl("restart", "wschat")
    second = put_down()
    check(first != second, "no new certificate was made")
    house.path(CONFIG).write_text(within)
    house.systemctl("reload", "wschat")
    same(fingerprint(), first, "after a reload, as it was at the start,")
    house.systemctl("restart", "wschat")
    same(fingerprint(), second, "after a restart")
    same(house.health(), 200, "/healthz")


@case("narrower: only some addresses are let in, by systemd")
def addresses(house, package):
    house.drop_in("[Service]\nIPAddressDeny=any\nIPAddressAllow=127.0.0.2\n")
    house.systemctl("restart", "wschat")
    with chat.connect(house, source="127.0.0.1", wait=False) as denied:
        with chat.over_tls(chat.connect(house, source="127.0.0.2")) as tls:
            same(chat.http_status(tls), 200, "/healthz")
        # The one who is denied came first.
        try:
            denied.getpeername()
        except OSError as error:
            same(error.errno, errno.ENOTCONN, "the state of the connection")
        else:
            check(False, "an address that is denied was let in")
    house.ctl("status")


@case("narrower: bounds of memory, tasks and open files are kept to")
def bounds(house, package):
    house.drop_in("[Service]\nMemoryMax=256M\nTasksMax=64\nLimitNOFILE=2000\n")
    house.systemctl("restart", "wschat")
    same((house.show("MemoryMax"), house.show("TasksMax")), (str(256 << 20), "64"), "systemd's own words")
    with house.client("ann") as ann:
        ann.say("hello")
        status = house.ctl_json("status")
        check(1500 < status["clients_max"] < 2000, "clients_max:", status)
        tasks = len(list(house.path(f"/proc/{house.pid()}/task").iterdir()))
        workers = int(house.run("nproc"))
        print(f"    {tasks} threads, {workers} of them workers")
        check(workers + 6 <= tasks <= workers + 16, f"{tasks} threads, {workers} of them workers")
