# Opens the connection to the broker without ever waiting for the network: names are resolved by a
# small DNS client of our own (getaddrinfo blocks for seconds, and the driver and the watchdog with
# it), and TLS (secure.py) verifies the broker or, with a pre-shared key, both ends. What TLS takes
# is loaded where it is asked for.

import asyncio
import random
import socket
import struct

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_PORT = const(53)  # RFC 1035
_RECURSE = const(0x0100)  # 4.1.1: standard query, recursion desired
_ANSWERED = const(0x800F)  # response bit and RCODE
_TYPE_A = const(1)
_CLASS_IN = const(1)
_POINTER = const(0xC0)  # 4.1.4
_DATAGRAM = const(512)  # 4.2.1
_TRIES = const(3)


class Transport:
    """`await open()` gives asyncio's (reader, writer) to the broker.

    host: name or IPv4 address; tls: the network map (see secure.py) or None; dns: gives the
    address of the name server, as `lambda: wlan.ifconfig()[3]`, or None where getaddrinfo may be
    trusted not to block; busy: `busy()` says that a driver is being served.
    """

    def __init__(self, host, port, tls=None, dns=None, timeout_ms=1500, busy=lambda: False):
        self.host = host
        self.port = port
        self.tls = tls
        self._secured = None
        self.dns = dns
        self.timeout_ms = timeout_ms
        self.busy = busy

    async def open(self):
        """Raises OSError, SYNC_CONNECT where the name cannot be resolved, CONFIG."""
        if self.tls:  # here, so that a station with bad settings charges nevertheless
            from chargekeep.sync import secure

            self._secured, self.tls = secure.wrapper(self.tls, self.host, self.busy), None
        address = self.host
        if self.dns and not is_address(address):
            address = await resolve(address, self.dns(), self.timeout_ms)
        reader, writer = await asyncio.open_connection(address, self.port)
        if self._secured:
            reader = writer = self._secured(writer)
        return reader, writer


def is_address(host):
    parts = host.split(".")
    return len(parts) == 4 and all(part.isdigit() for part in parts)


async def resolve(name, server, timeout_ms, port=_PORT):
    """The IPv4 address of `name`, asked of `server`. Raises SYNC_CONNECT."""
    for _ in range(_TRIES):
        query_id = random.getrandbits(16)
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            link.setblocking(False)
            link.connect(socket.getaddrinfo(server, port)[0][-1])
            link.write(query(query_id, name))
            stream = asyncio.StreamReader(link)
            answer = await asyncio.wait_for_ms(stream.read(_DATAGRAM), timeout_ms)
            address = parse(answer, query_id)
            if address:
                return address
        except asyncio.TimeoutError:
            pass  # datagrams get lost: ask again
        except OSError as e:
            raise ChargekeepError(errors.SYNC_CONNECT, "DNS: %s" % e)
        finally:
            link.close()
    raise ChargekeepError(errors.SYNC_CONNECT, "cannot resolve " + name)


def query(query_id, name):
    """A question for the address of `name` (RFC 1035 section 4)."""
    labels = b"".join([bytes((len(part),)) + part.encode() for part in name.split(".")])
    head = struct.pack("!HHHHHH", query_id, _RECURSE, 1, 0, 0, 0)
    return head + labels + struct.pack("!BHH", 0, _TYPE_A, _CLASS_IN)


def parse(answer, query_id):
    """The first address in an answer to our question, or None."""
    try:
        found, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", answer)
        if found != query_id or flags & _ANSWERED != 0x8000:
            return None
        at = 12
        for _ in range(questions):
            at = _after_name(answer, at) + 4
        for _ in range(answers):
            at = _after_name(answer, at)
            kind, group, _, size = struct.unpack_from("!HHIH", answer, at)
            at += 10
            if kind == _TYPE_A and group == _CLASS_IN and size == 4:
                return "%d.%d.%d.%d" % struct.unpack_from("BBBB", answer, at)
            at += size
    except (ValueError, IndexError):  # shorter than it says
        pass
    return None


def _after_name(answer, at):
    while answer[at] < _POINTER:
        if not answer[at]:
            return at + 1
        at += answer[at] + 1
    return at + 2
