"""A small chat client: HTTP, WebSocket and the JSON dialect over TLS, with the standard library alone.

Owns one connection and reads it frame by frame, in the order in which things arrive. It is written
from RFC 6455 and shares nothing with the daemon, so that both cannot be wrong in the same way.
Every wait ends after `machine.DEADLINE`.
"""

import base64
import json
import os
import socket
import ssl
import struct

from machine import DEADLINE, Failed

PORT = 9501

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def connect(machine, port=PORT, source="127.0.0.1", wait=True):
    """A TCP connection to the daemon; raises ConnectionRefusedError where nobody listens.

    Without `wait` it is perhaps only on its way.
    """

    def make():
        made = socket.socket()
        made.settimeout(DEADLINE if wait else 0)
        try:
            made.bind((source, 0))
            made.connect(("127.0.0.1", port))
        except BlockingIOError:
            pass
        except OSError:
            made.close()
            raise
        return made

    return machine.socket(make)


def over_tls(plain):
    """The TLS handshake. The certificate is the daemon's own: there is nobody to vouch for it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # An end of TCP without the end of TLS before it is an error, not an end.
    return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


def http_status(tls, path="/healthz"):
    """Asks for `path` and returns the status of the answer."""
    tls.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{PORT}\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while b"\r\n" not in head:
        piece = tls.recv(4096)
        if not piece:
            raise Failed(f"{path}: the connection ended without an answer")
        head += piece
    return int(head.split(b" ", 2)[1])


class Client:
    """One chat connection that has said hello."""

    def __init__(self, machine, nick, port=PORT):
        self.tls = over_tls(connect(machine, port))
        self.buffer = b""
        self.seq = 0
        # Has our close frame been sent?
        self.closed = False
        self.upgrade()
        self.send("hello", v=1, nick=nick, agent="tests/deb")
        self.welcome = self.expect("welcome")["payload"]
        self.id = self.welcome["client"]
        self.user = self.welcome["user"]
        self.joined = self.expect("joined")["payload"]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # Who leaves without a word counts as here for a while, and keeps the nick.
        if kind is None and not self.closed:
            self.closed = True
            self.write(CLOSE, struct.pack("!H", 1000))
            _, code, _ = self.until_closed()
            if code != 1000:
                raise Failed(f"leaving with 1000 was answered with {code}")
        self.tls.close()

    # -- the dialect -----------------------------------------------------------------------------

    def send(self, kind, **payload):
        """Sends one frame and returns its number, which the answer carries as `re`."""
        self.seq += 1
        self.write(TEXT, json.dumps({"type": kind, "payload": payload, "seq": self.seq}).encode())
        return self.seq

    def expect(self, kind, **members):
        """The next frame of this type whose payload has these members; others are passed over."""
        passed = []
        while True:
            opcode, body = self.read()
            if opcode == CLOSE:
                raise Failed(f"waited for {kind}, was closed: {close_of(body)}; before that: {passed}")
            frame = json.loads(body)
            if frame["type"] == kind and all(frame["payload"].get(k) == v for k, v in members.items()):
                return frame
            passed.append(frame)

    def say(self, text):
        """Says something in the lobby and waits until it is kept."""
        number = self.send("message", room="lobby", text=text)
        return self.expect("ack", re=number)

    def until_closed(self):
        """Reads on to the close frame, answers it, and returns the frames before it, code and reason.

        Raises where the connection ends otherwise: by a reset, or without the closing handshake.
        """
        frames = []
        while True:
            opcode, body = self.read()
            if opcode == TEXT:
                frames.append(json.loads(body))
                continue
            code, reason = close_of(body)
            if not self.closed:
                self.closed = True
                self.write(CLOSE, body[:2])
            # Nothing follows but the orderly end of TLS, which is answered, and of TCP.
            if self.buffer or self.tls.recv(4096):
                raise Failed("the daemon sent something after its close frame")
            self.tls.unwrap().close()
            return frames, code, reason

    # -- RFC 6455 --------------------------------------------------------------------------------

    def upgrade(self):
        key = base64.b64encode(os.urandom(16)).decode()
        self.tls.sendall(
            f"GET /chat HTTP/1.1\r\nHost: localhost:{PORT}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: wschat.v1\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"the upgrade was answered with {head.decode(errors='replace')}")

    def read(self):
        """The next text or close frame. Pings are answered on the way."""
        while True:
            first, second = self.take(2)
            if not first & 0x80 or second & 0x80:
                raise Failed("the daemon sent a fragment or a masked frame")
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.take(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.take(8))
            opcode, body = first & 0x0F, self.take(length)
            if opcode == PING:
                self.write(PONG, body)
            elif opcode in (TEXT, CLOSE):
                return opcode, body

    def write(self, opcode, body):
        mask = os.urandom(4)
        head = bytes([0x80 | opcode])
        head += bytes([0x80 | len(body)]) if len(body) < 126 else struct.pack("!BH", 0xFE, len(body))
        self.tls.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(body)))

    def take(self, count):
        while len(self.buffer) < count:
            self.fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def fill(self):
        piece = self.tls.recv(65536)
        if not piece:
            raise Failed("the connection ended without a close frame")
        self.buffer += piece


def close_of(body):
    """The code and reason of a close frame; 1005 stands for a frame without a code (RFC 6455, 7.1.5)."""
    if len(body) < 2:
        return 1005, ""
    return struct.unpack("!H", body[:2])[0], body[2:].decode()
