"""Ports below 1024: by a socket unit, or by a capability that only those have who configure it."""

import shutil

import chat
from house import CONFIG, case, check, repacked, same, version_of
from machine import wait_for

PORT = 443
EXAMPLE = "/usr/share/doc/wschat/examples/wschat.socket"


def enable_socket(house, change=lambda text: text):
    """What the head of the example tells the operator to do."""
    unit = house.path("/etc/systemd/system/wschat.socket")
    shutil.copy(house.path(EXAMPLE), unit)
    unit.write_text(change(unit.read_text()))
    house.systemctl("daemon-reload")
    house.systemctl("enable", "wschat.socket")
    house.systemctl("stop", "wschat")
    house.try_run("systemctl", "start", "wschat")


def serves_through_restarts(house, package):
    """Somebody chats at the port, and nobody is refused there over restart, SIGKILL and upgrade."""
    with house.client("ann", PORT) as ann:
        ann.say("hello")
    with house.newcomers(port=PORT):
        house.systemctl("restart", "wschat")
    pid = house.pid()
    with house.newcomers(port=PORT, crash=True):
        house.signal("KILL")
        house.until_active(other_than=pid)
    newer = repacked(package, house.scratch, version_of(package) + "+upgrade")
    with house.newcomers(port=PORT):
        house.install(newer)
    house.until_active(other_than=pid)
    with house.client("bob", PORT) as bob:
        bob.say("hello")
    same(house.health(), 200, "/healthz on the other listener")
    same(house.warnings(), [], "warnings in the journal")


def capabilities(house):
    lines = house.path(f"/proc/{house.pid()}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split(":")[1], 16) for line in lines if line.startswith("Cap")}


@case("port 443 by the socket unit, without any capability")
def socket_unit(house, package):
    house.configure("[[listen]]", f'address = "[::]:{PORT}"')
    enable_socket(house)
    same(set(capabilities(house).values()), {0}, "capabilities")
    serves_through_restarts(house, package)
    # Both families come through the one line of the unit.
    with house.client("six", PORT) as six:
        seen = house.ctl_json("list")["clients"]
        same([client["address"] for client in seen], ["127.0.0.1"], "an IPv4 address, as such")
        six.say("hello")
    # At the next boot it is there again, before the daemon.
    same(house.systemctl("is-enabled", "wschat.socket").strip(), "enabled", "at the next boot the socket is")


@case("port 443 by the capability, where a drop-in gives it")
def capability(house, package):
    house.configure("[[listen]]", f'address = "[::]:{PORT}"')
    house.drop_in("[Service]\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n")
    house.systemctl("restart", "wschat")
    bind_service = 1 << 10
    same(set(capabilities(house).values()), {bind_service}, "capabilities")
    serves_through_restarts(house, package)


@case("port 443 without either is refused, and told what to do")
def neither(house, package):
    house.configure("[[listen]]", f'address = "[::]:{PORT}"')
    check(house.try_run("systemctl", "restart", "wschat").returncode != 0, "the start succeeded")
    for words in (f"[::]:{PORT}", "wschat.socket", "CAP_NET_BIND_SERVICE"):
        wait_for(f"{words} in the journal", lambda: words in house.journal_text())


@case("a socket that no [[listen]] names is warned of, and the daemon serves all the same")
def left_over(house, package):
    enable_socket(house)
    house.until_active()
    same(house.health(), 200, "/healthz")
    told = wait_for("the warning", house.warnings)
    check(len(told) == 1 and f'address = "[::]:{PORT}"' in told[0] and "wschat.socket" in told[0], told)
    # The operator does as he is told.
    house.configure("[[listen]]", f'address = "[::]:{PORT}"')
    house.systemctl("restart", "wschat")
    same(house.health(PORT), 200, "/healthz")


@case("a reload that takes the [[listen]] of a socket unit's port away warns and drops nobody; the next one serves there again")
def taken_away(house, package):
    listen = f'\n[[listen]]\naddress = "[::]:{PORT}"\n'
    house.configure("[[listen]]", f'address = "[::]:{PORT}"')
    enable_socket(house)
    with house.client("ann", PORT) as ann:
        house.reconfigure(listen, "")
        house.systemctl("reload", "wschat")
        (told,) = wait_for("the warning", house.warnings)
        check(f"[::]:{PORT}" in told and "stop and disable that unit" in told, told)
        ann.say("still here")
        same(house.health(), 200, "/healthz on the other listener")
        # It goes on listening: who comes meanwhile waits until it is wanted again.
        waiting = chat.connect(house, PORT)
        house.configure("[[listen]]", f'address = "[::]:{PORT}"')
        house.systemctl("reload", "wschat")
        with chat.over_tls(waiting) as tls:
            same(chat.http_status(tls), 200, "the one who waited is answered")
        ann.say("still here")
    with house.newcomers(port=PORT):
        house.systemctl("restart", "wschat")


@case("a socket unit and a [[listen]] that differ are told side by side")
def mismatch(house, package):
    house.configure("[[listen]]", f'address = "[::]:{PORT}"')
    enable_socket(house, lambda text: text.replace("ListenStream=443", "ListenStream=127.0.0.1:443"))
    wait_for("both addresses in the journal", lambda: (
        f"permission to listen on [::]:{PORT}; a socket unit hands over 127.0.0.1:{PORT} instead" in house.journal_text()
    ))
    config = house.path(CONFIG)
    config.write_text(config.read_text().replace(f"[::]:{PORT}", f"127.0.0.1:{PORT}"))
    house.systemctl("reset-failed", "wschat.service", "wschat.socket")
    house.systemctl("start", "wschat.socket", "wschat")
    same(house.health(PORT), 200, "/healthz")
    check(chat.PORT != PORT, "nothing was tested")
