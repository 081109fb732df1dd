"""A throw-away Debian 12 with a real systemd as its first process.

Owns: building the root folder once, booting it over an overlay that is forgotten afterwards,
running commands in it, opening sockets in its network, and leaving nothing behind. Knows nothing
of wschat.

The machine has loopback alone and no registration with a systemd outside, so it boots wherever
root may make namespaces and control groups: beside a systemd, or where there is none.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

SUITE = "bookworm"

# Beyond what apt itself needs: an init, the bus that systemctl wants, and useradd. A dependency
# that the package forgets to declare must not be here by accident.
PACKAGES = ["systemd-sysv", "dbus", "passwd"]

CLONE_NEWNET = 0x40000000

# A wait that takes longer than this has failed. No test measures time.
DEADLINE = 60.0


class Failed(AssertionError):
    """A command or a wait in the machine did not end as it should have."""


def wait_for(what, probe, deadline=DEADLINE):
    """Calls `probe` until it answers something true, and returns that."""
    end = time.monotonic() + deadline
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {deadline:.0f} s in vain for {what}")
        time.sleep(0.02)


def make_root(root, extra=()):
    """Fills the folder `root` with Debian 12, unless an earlier run has."""
    packages = sorted({*PACKAGES, *extra})
    stamp = root / "etc/wschat-test-root"
    if stamp.exists() and stamp.read_text().split() == packages:
        return
    # Built beside its place and renamed: a root that was interrupted is never taken for a whole one.
    fresh = root.with_name(root.name + ".new")
    for old in (root, fresh):
        shutil.rmtree(old, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(packages)}",
        "--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\"",
        # The folder may lie where apt's own user cannot look.
        "--aptopt=APT::Sandbox::User \"root\"",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        SUITE, str(fresh),
    ]
    command += mirror()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (fresh / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    (fresh / stamp.relative_to(root)).write_text("\n".join(packages) + "\n")
    fresh.rename(root)


def mirror():
    """Where this machine gets Debian 12 from; nothing (mmdebstrap's own choice) where it is another system."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"],
        capture_output=True, text=True,
    ).stdout
    sites = [line.split()[0] for line in listed.splitlines() if line.split()[1:] == [SUITE]]
    return sites[:1]


class Machine:
    """One booted machine; use as a context manager."""

    def __init__(self, root, name, log):
        self.root = root
        self.name = f"{name}-{os.getpid()}"
        self.log = log
        self.nspawn = None
        self.leader = None
        self.cgroups = [folder / self.name for folder in own_cgroups()]

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self):
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def boot(self):
        for group in self.cgroups:
            group.mkdir()

        def move_into_own_groups():
            for group in self.cgroups:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        with open(self.log, "wb") as log:
            self.nspawn = subprocess.Popen(
                [
                    "systemd-nspawn", "--quiet", f"--directory={self.root}", "--volatile=overlay",
                    f"--machine={self.name}", "--register=no", "--keep-unit", "--private-network",
                    "--console=pipe", "--settings=no", "--link-journal=no", "--resolv-conf=off",
                    "--timezone=off",
                    # systemd filters addresses by it.
                    "--system-call-filter=bpf", "--boot",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=move_into_own_groups,
                # One mode for every host: only the unified hierarchy is shown to the machine.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self.leader = wait_for("the machine's first process", self.find_leader)
        wait_for("the machine to be up", self.is_up)

    def find_leader(self):
        if self.nspawn.poll() is not None:
            raise Failed("the machine did not boot:\n" + Path(self.log).read_text(errors="replace"))
        for task in Path(f"/proc/{self.nspawn.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                try:
                    if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        return int(child)
                except FileNotFoundError:
                    continue  # it was a passing helper of nspawn
        return None

    def is_up(self):
        return self.try_run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def __exit__(self, *_):
        # The machine's disk is about to be forgotten: an orderly end would only cost time. The
        # death of its first process ends every other one in it.
        if self.leader:
            os.kill(self.leader, signal.SIGKILL)
        elif self.nspawn and self.nspawn.poll() is None:
            self.nspawn.kill()
        if self.nspawn:
            self.nspawn.wait()
        for group in self.cgroups:
            wait_for(f"{group} to empty", lambda: remove_cgroup(group))

    # -- inside ----------------------------------------------------------------------------------

    def command(self, *words, user=None):
        """The command line that runs `words` in the machine, as root or as another user."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        enter += [
            "env", "-i", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
        ]
        if user:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return enter + [str(word) for word in words]

    def try_run(self, *words, user=None, stdin=""):
        """Runs a command and returns how it ended, whatever that is."""
        return subprocess.run(
            self.command(*words, user=user), capture_output=True, text=True, input=stdin, timeout=120,
        )

    def run(self, *words, exits=0, user=None, stdin=""):
        """Runs a command that must end with `exits`; returns its standard output."""
        ended = self.try_run(*words, user=user, stdin=stdin)
        if ended.returncode != exits:
            raise Failed(
                f"{' '.join(map(str, words))}\n  ended with {ended.returncode} instead of {exits}\n"
                f"{ended.stdout}{ended.stderr}"
            )
        return ended.stdout

    def path(self, path):
        """Where a file of the machine is seen from outside."""
        return Path(f"/proc/{self.leader}/root{path}")

    def socket(self, connect):
        """Calls `connect` in the machine's network and returns the socket that it makes.

        Linux gives each thread its own network namespace, and a socket stays in the one where it
        was made; so only a short-lived thread moves.
        """
        result = {}

        def move_and_connect():
            try:
                descriptor = os.open(f"/proc/{self.leader}/ns/net", os.O_RDONLY)
                try:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(descriptor, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                result["socket"] = connect()
            except Exception as error:  # handed to the caller's thread below
                result["error"] = error

        thread = threading.Thread(target=move_and_connect)
        thread.start()
        thread.join()
        if "error" in result:
            raise result["error"]
        return result["socket"]


def own_cgroups():
    """Our own control group in the unified hierarchy and, on a hybrid host, in systemd's."""
    base = Path("/sys/fs/cgroup")
    unified = base / "unified" if (base / "unified").is_dir() else base
    places = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            places.append(Path(f"{unified}{path}"))
        elif controllers == "name=systemd" and (base / "systemd").is_dir():
            places.append(Path(f"{base}/systemd{path}"))
    return [place for place in places if (place / "cgroup.procs").exists()]


def remove_cgroup(group):
    """Removes a control group and those below; false while a dying process is still in one."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError:
            return False
    return True
