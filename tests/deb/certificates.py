"""Certificates from a CA that speaks ACME: Debian's pebble, in the machine's network beside the daemon."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading

import chat
from house import case, check, same
from machine import wait_for

NAME = "chat.example"
DIRECTORY, MANAGEMENT, DNS = 14000, 15000, 5353


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def answer(query):
    """Every name is 127.0.0.1 (RFC 1035, section 4); of other types there is nothing."""
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    found = question.endswith(b"\0\1\0\1")
    head = query[:2] + b"\x81\x80\0\1" + bytes([0, found]) + bytes(4)
    return head + question + (b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if found else b"")


@contextlib.contextmanager
def ca(house):
    """The CA is on in the block; the machine has the root of its door as /etc/wschat/ca.pem."""
    folder = house.scratch / "ca"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    openssl(folder, "req", "-x509", *curve, "-days", "30", "-subj", "/CN=The CA's own door", "-keyout", "root.key", "-out", "root.pem")
    openssl(folder, "req", *curve, "-subj", "/CN=localhost", "-keyout", "door.key", "-out", "door.csr")
    (folder / "ext").write_text("subjectAltName = DNS:localhost\nbasicConstraints = critical, CA:FALSE\n")
    openssl(
        folder, "x509", "-req", "-in", "door.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial",
        "-days", "30", "-extfile", "ext", "-out", "door.pem",
    )
    shutil.copy(folder / "root.pem", house.path("/etc/wschat/ca.pem"))
    (folder / "pebble.json").write_text(json.dumps({"pebble": {
        "listenAddress": f"127.0.0.1:{DIRECTORY}", "managementListenAddress": f"127.0.0.1:{MANAGEMENT}",
        "certificate": "door.pem", "privateKey": "door.key", "httpPort": 9, "tlsPort": chat.PORT,
    }}))

    def bound():
        made = socket.socket(type=socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", DNS))
        return made

    names = house.socket(bound)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                query, sender = names.recvfrom(512)
                if not query:
                    return
                names.sendto(answer(query), sender)

    thread = threading.Thread(target=serve)
    thread.start()
    with open(folder / "log", "wb") as log:
        pebble = subprocess.Popen(
            ["nsenter", "-t", str(house.leader), "-n", "--", "pebble", "-config", "pebble.json", "-strict",
             "-dnsserver", f"127.0.0.1:{DNS}"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PEBBLE_VA_NOSLEEP": "1"},
        )
    try:
        def is_on():
            same(pebble.poll(), None, f"the CA: {(folder / 'log').read_text()}")
            with contextlib.suppress(ConnectionRefusedError):
                for port in (DIRECTORY, MANAGEMENT):
                    chat.connect(house, port).close()
                return True

        wait_for("the CA", is_on)
        yield
    finally:
        pebble.kill()
        pebble.wait()
        # An empty question ends the answers.
        house.socket(lambda: socket.socket(type=socket.SOCK_DGRAM)).sendto(b"", ("127.0.0.1", DNS))
        thread.join()
        names.close()


def root_of(house):
    """The certificate under which the CA gives others."""
    with chat.over_tls(chat.connect(house, MANAGEMENT)) as tls:
        tls.sendall(b"GET /roots/0 HTTP/1.0\r\n\r\n")
        text = b""
        with contextlib.suppress(ssl.SSLEOFError):
            while piece := tls.recv(65536):
                text += piece
    return text.split(b"\r\n\r\n", 1)[1].decode()


def fingerprint_for(house, root):
    """What a browser sees that trusts this root alone and goes to the name; None where it refuses."""
    context = ssl.create_default_context(cadata=root)
    try:
        with context.wrap_socket(chat.connect(house), server_hostname=NAME) as tls:
            return tls.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError:
        return None


@case("inside the sandbox a CA's first certificate comes by itself, drops nobody, and is kept over restart and SIGKILL")
def first(house, package):
    with ca(house):
        root = root_of(house)
        with house.client("ann") as ann:
            same(fingerprint_for(house, root), None, "a browser that trusts the CA alone sees")
            house.configure(
                "[tls]", f'acme = ["{NAME}"]', f'acme_directory = "https://localhost:{DIRECTORY}/dir"',
                'acme_ca_file = "/etc/wschat/ca.pem"',
            )
            house.systemctl("reload", "wschat")
            found = wait_for("a certificate of the CA", lambda: fingerprint_for(house, root))
            ann.say("nobody noticed")
        shown = house.ctl_json("tls")["certificate"]
        same(shown["names"], [NAME], "the certificate's names")
        check(shown["source"].startswith("ACME: "), shown["source"])
    # The CA is away, and not needed.
    kept = house.run("find", "/var/lib/wschat/acme", "-type", "f", "-printf", "%m %u %f\n").splitlines()
    same(sorted(kept), ["600 wschat account.json", "600 wschat certificate.pem"], "what is kept of it")
    house.systemctl("restart", "wschat")
    same(fingerprint_for(house, root), found, "the certificate after a restart")
    pid = house.pid()
    house.signal("KILL")
    house.until_active(other_than=pid)
    same(fingerprint_for(house, root), found, "the certificate after SIGKILL")
    renewal = house.ctl_json("tls")["certificate"]["renewal"]
    same((renewal["failures"], renewal["error"]), (0, None), "failures")
