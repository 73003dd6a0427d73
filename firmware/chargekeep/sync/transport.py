# Opens the connection to the broker without ever waiting for the network: names are resolved by a
# small DNS client of our own (getaddrinfo blocks for seconds, and the driver and the watchdog with
# it), and TLS verifies the broker or, with a pre-shared key, both ends. A handshake with
# certificates computes for about a second on a microcontroller and needs a set clock; one with a
# pre-shared key does neither.

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

_USER = const(5)  # of the network map
_CA = const(8)
_CERTIFICATE = const(9)
_KEY = const(10)
_PSK = const(11)


class Transport:
    """`await open()` gives asyncio's (reader, writer) to the broker.

    host: name or IPv4 address; tls: the network map (see `tls_context`) or None; dns: gives the
    address of the name server, as `lambda: wlan.ifconfig()[3]`, or None where getaddrinfo may be
    trusted not to block.
    """

    def __init__(self, host, port, tls=None, dns=None, timeout_ms=1500):
        self.host = host
        self.port = port
        self.tls = tls
        self._context = None
        self.dns = dns
        self.timeout_ms = timeout_ms

    async def open(self):
        """Raises OSError, SYNC_CONNECT where the name cannot be resolved, CONFIG."""
        if self.tls:  # here, so that a station with bad settings charges nevertheless
            self._context, self.tls = tls_context(self.tls), None
        address = self.host
        if self.dns and not is_address(address):
            address = await resolve(address, self.dns(), self.timeout_ms)
        if self._context is None:
            return await asyncio.open_connection(address, self.port)
        return await asyncio.open_connection(
            address, self.port, ssl=self._context, server_hostname=self.host
        )


def tls_context(settings):
    """A client context that accepts only a broker it can authenticate.

    settings: the network map (FORMATS.md section 8). Raises CONFIG where it has neither a
    certificate to trust nor a pre-shared key, or where the port cannot do it.
    """
    import tls  # the frozen module ssl ignores the PSK attributes

    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)  # its attributes are not in the stubs
    try:
        if _PSK in settings:
            context.verify_mode = tls.CERT_NONE  # the key does it  # pyright: ignore
            context.psk_identity = settings[_USER]  # pyright: ignore
            context.psk_key = settings[_PSK]  # pyright: ignore
            # Only these suites: another one would not authenticate the broker.
            context.set_ciphers([c for c in context.get_ciphers() if "-PSK-" in c])
        else:
            context.verify_mode = tls.CERT_REQUIRED  # pyright: ignore
            context.load_verify_locations(settings[_CA])
            if _CERTIFICATE in settings:
                context.load_cert_chain(settings[_CERTIFICATE], settings[_KEY])
    except (AttributeError, KeyError, ValueError, OSError) as e:
        raise ChargekeepError(errors.CONFIG, "TLS: %s" % e)
    return context


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
