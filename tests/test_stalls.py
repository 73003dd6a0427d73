"""A bad network never delays a driver: the scheduler of a station in a MicroPython VM wakes its
tasks in time, whatever the other end of its connections does, or does not do.
"""

import contextlib
import socket
import struct
import threading
import time

import pytest
from charger import wait_for
from sync_site import Site

TICK_MS = 250  # of the driver plane, app.py
CONNACK = b"\x20\x02\x00\x00"


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.add("cp-1")
    yield site
    for vm in site.vms:
        vm.stop()


class Peer:
    """A server that does with each connection what `serve(connection)` does, and then nothing."""

    def __init__(self, serve, **options):
        self.serve = serve
        self.kept = []
        self.socket = socket.create_server(("127.0.0.1", 0), **options)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.kept.append(connection)
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with contextlib.suppress(OSError):
            self.serve(connection)

    def close(self):
        self.socket.close()
        for connection in self.kept:
            connection.close()


def silent(connection):
    """A broker that hangs; TLS that never begins."""


def half_open(connection):
    # Accepts, and takes no more: the station writes until its socket is full.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.recv(1000)
    connection.sendall(CONNACK)


def slow(connection):
    # A byte at a time, the end of a packet never.
    connection.recv(1000)
    for byte in CONNACK + b"\x30\x82\x10":
        connection.sendall(bytes((byte,)))
        time.sleep(0.1)


def slow_tls(connection):
    # The beginning of a ServerHello, a byte at a time.
    connection.recv(1000)
    for byte in b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + bytes(60):
        connection.sendall(bytes((byte,)))
        time.sleep(0.05)


def reset(connection):
    connection.recv(1000)
    connection.sendall(CONNACK)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def punctual(vm, errors, at_least=1):
    """The station counts `errors`, and wakes its tasks in time meanwhile."""
    wait_for(lambda: sum(e.get("error") in errors for e in vm.events) >= at_least, 60)
    assert vm.errors() <= errors, vm.events
    assert vm.last("late") < TICK_MS, vm.events


@pytest.mark.parametrize("serve", [silent, half_open, slow, reset], ids=lambda f: f.__name__)
def test_a_broker_that_stalls(site, serve):
    peer = Peer(serve)
    vm = site.vm("cp-1", format=True, records=300, port=peer.port, timeout_ms=700)
    punctual(vm, {600, 601, 602, 606}, 2)
    peer.close()


@pytest.mark.parametrize("serve", [silent, slow_tls], ids=lambda f: f.__name__)
def test_a_tls_handshake_that_stalls(site, serve):
    peer = Peer(serve)
    vm = site.vm("cp-1", format=True, port=peer.port, timeout_ms=700, psk=["cp-1", "00" * 16])
    punctual(vm, {600, 602}, 2)
    peer.close()


def test_connections_that_nobody_accepts(site):
    peer = socket.create_server(("127.0.0.1", 0), backlog=0)
    filling = []
    for _ in range(4):  # from here on SYNs get no answer
        filling.append(socket.socket())
        filling[-1].setblocking(False)
        filling[-1].connect_ex(peer.getsockname())
    vm = site.vm("cp-1", format=True, port=peer.getsockname()[1], timeout_ms=700)
    punctual(vm, {602}, 2)
    for each in (*filling, peer):
        each.close()


def test_a_name_server_that_is_a_black_hole(site):
    hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hole.bind(("127.0.0.1", 0))
    port = hole.getsockname()[1]
    vm = site.vm("cp-1", format=True, host="broker.example", dns=port, timeout_ms=2000)
    punctual(vm, {600, 602}, 2)
    assert hole.recv(600)
    hole.close()
