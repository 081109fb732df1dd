"""Many people chat while the daemon is upgraded, restarted or killed under them; and the way back.

Nobody may lose a message or hear one twice, and everybody must come back without being told to.
"""

import subprocess
from pathlib import Path

from house import CONFIG, case, check, repacked, same, version_of
from machine import wait_for

SIZE = 200
DATABASE = "/var/lib/wschat/wschat.db"

HERE = Path(__file__).resolve().parent


def next_package(package, scratch):
    """The release after `package`: a later version, a newer database, a configuration that knows more."""
    built = subprocess.run([HERE / "next"], check=True, capture_output=True, text=True)
    programs = Path(built.stdout.strip())
    shown = subprocess.run([programs / "wschat", "--version"], check=True, capture_output=True, text=True)

    def change(tree):
        for program in programs.iterdir():
            (tree / "usr/bin" / program.name).write_bytes(program.read_bytes())
        sample = tree / "usr/share/wschat/wschat.toml"
        sample.write_text(sample.read_text() + "\n# A key that the release before did not know.\n")

    return repacked(package, scratch, shown.stdout.split()[-1], change)


def schema_of(house):
    """The version of the database of a daemon that is stopped: bytes 60 to 63, SQLite's user_version."""
    with open(house.path(DATABASE), "rb") as file:
        return int.from_bytes(file.read(64)[60:], "big")


def digest(house):
    return house.run("sha256sum", DATABASE)


def packaged(house):
    return house.run("dpkg-query", "--show", "--showformat", "${Version} ${db:Status-Abbrev}", "wschat").split()


def make_ready(house):
    """A configuration that an operator has changed, so that everybody is soon back."""
    house.configure("[shutdown]", 'spread = "2s"')
    house.configure("[history]", "keep = 100000")
    house.systemctl("reload", "wschat")
    return house.path(CONFIG).read_text()


def stored(house):
    """Everything that the lobby has stored."""
    messages, after = [], 0
    while True:
        page = house.ctl_json("history", "lobby", "--after", after, "--limit", 500)["messages"]
        if not page:
            return messages
        messages += [(frame["seq"], frame["payload"]["from"]["nick"], frame["payload"]["text"]) for frame in page]
        after = messages[-1][0]


@case("an upgrade under 200 who chat: nothing lost, everybody back; the way back is refused with reason and remedy")
def upgrade_and_back(house, package):
    newer = next_package(package, house.scratch)
    check(version_of(newer) != version_of(package), "both packages have one version")
    config = make_ready(house)
    house.systemctl("stop", "wschat")
    before = schema_of(house)
    house.systemctl("start", "wschat")
    with house.crowd(SIZE) as crowd:
        pid = house.pid()
        with house.newcomers():
            # A question about the configuration would fail here: there is nobody to answer it.
            house.install(newer)
        check(house.until_active() != pid, "the same process still runs")
        crowd.all_well(losses=1)
    same(house.path(CONFIG).read_text(), config, "the configuration")
    same(packaged(house), [version_of(newer), "ii"], "the package")
    same(house.run("wschat", "--version").split()[-1], version_of(newer), "wschat --version")
    house.systemctl("stop", "wschat")
    same(schema_of(house), before + 1, "the database's version")
    house.systemctl("start", "wschat")
    said = stored(house)

    # Back to the older one: that is installed, and its daemon refuses the newer database.
    house.install(package, "--allow-downgrades")
    same(packaged(house), [version_of(package), "ii"], "the package")
    wait_for("the older daemon to be given up", lambda: house.show("ActiveState") == "failed")
    shown = house.systemctl("status", "--full", "--lines", "20", "wschat", exits=3)
    for words in (DATABASE, "newer wschat", "install the newer wschat again"):
        check(words in shown, f"systemctl status does not say {words!r}:", shown)
    same(house.show("ExecMainStatus"), "65", "exit status, with which it is not tried again and again")
    same(house.show("NRestarts"), "0", "restarts")
    same(house.path(CONFIG).read_text(), config, "the configuration")
    untouched = digest(house)
    check(house.try_run("systemctl", "start", "wschat").returncode != 0, "the older daemon has started")
    same(digest(house), untouched, "the database, after another try")

    # And forward again: nothing was touched.
    house.install(newer)
    house.until_active()
    same(stored(house), said, "what is stored")


@case("a restart under 200 who chat: nothing lost, everybody back")
def restart_under_load(house, package):
    make_ready(house)
    with house.crowd(SIZE) as crowd:
        with house.newcomers():
            house.systemctl("restart", "wschat")
        crowd.all_well(losses=1)


@case("SIGKILL under 200 who chat: nothing that was acknowledged is lost, everybody back")
def kill_under_load(house, package):
    make_ready(house)
    with house.crowd(SIZE) as crowd:
        pid = house.pid()
        with house.newcomers(crash=True):
            house.signal("KILL")
            house.until_active(other_than=pid)
        crowd.all_well(losses=1)
