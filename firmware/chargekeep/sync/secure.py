# TLS to the broker, a step of the handshake at a time: other tasks run between its records, and
# while a driver is served it waits. With an RSA-2048 certificate, key transport by RSA and a
# password no step computes for more than 0.18 s on an RP2040; with curves 0.4 s and more
# (FORMATS.md section 8). It costs 28 KB of heap for as long as it is open.

import asyncio
import io
from asyncio import core  # not in the stubs  # pyright: ignore
from time import ticks_diff, ticks_ms

import tls  # the frozen module ssl ignores the PSK attributes
from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_USER = const(5)  # of the network map
_CA = const(8)
_CERTIFICATE = const(9)
_KEY = const(10)
_PSK = const(11)
_PROMPT = const(12)

_HEADER = const(5)  # bytes that a record begins with, RFC 5246 section 6.2.1
_HANDSHAKE = const(22)  # its content type
_LOOK_MS = const(20)

# None of these makes an RP2040 compute with curves where the broker's certificate is RSA's.
_PROMPT_SUITES = ("TLS-RSA-WITH-AES-128-GCM-SHA256", "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256")


def wrapper(settings, host, busy):
    """`wrap(plain)` makes a `Stream` that talks to `host` alone.

    settings: the network map (FORMATS.md section 8). Raises CONFIG where it has neither a
    certificate to trust nor a pre-shared key, or where the port cannot do it.
    """
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
            if settings.get(_PROMPT):
                context.set_ciphers(_PROMPT_SUITES)
    except (AttributeError, KeyError, ValueError, OSError) as e:
        raise ChargekeepError(errors.CONFIG, "TLS: %s" % e)
    return lambda plain: Stream(context, plain, host, busy)


class _Link(io.IOBase):
    """The socket as mbedTLS sees it. Before each record, to read or of a handshake to write, it
    blocks once: by then mbedTLS has dealt with the record before, and takes up from there."""

    def __init__(self, socket):
        self._socket = socket
        self.paused = False  # that was all the last call did; else:
        self.reading = False  # it was to read

    def readinto(self, buf):
        self.reading = True
        self.paused = len(buf) == _HEADER and not self.paused
        if not self.paused:
            try:
                return self._socket.readinto(buf)
            except OSError as e:  # an exception would skip mbedTLS's own way out
                return -e.errno

    def write(self, buf):
        self.reading = False
        self.paused = buf[0] == _HANDSHAKE and not self.paused
        if not self.paused:
            try:
                return self._socket.write(buf)
            except OSError as e:
                return -e.errno

    def ioctl(self, request, argument):
        return 0


class Stream:
    """What MqttClient uses of asyncio's (reader, writer), over TLS.

    plain: asyncio's stream of the socket; host: who the broker has to be; `busy()`: the handshake
    has to wait. The first `drain` makes the handshake. One `write`, then `drain`: its buffer
    stays as it is until that is over.
    """

    def __init__(self, context, plain, host, busy):
        self._plain = plain
        self._link = _Link(plain.s)
        self._tls = context.wrap_socket(
            self._link, server_hostname=host, do_handshake_on_connect=False
        )
        self._busy = busy
        self._open = False
        self._out = b""

    async def readinto(self, buf):
        """Bytes read, 0 at the end, or None: try again."""
        await asyncio.sleep_ms(0)  # a broker that never pauses holds up nobody
        while not self._open:  # two tasks would take two steps at a time
            await asyncio.sleep_ms(_LOOK_MS)
        got = self._tls.readinto(buf)
        if got is None:  # only now: what TLS holds already comes by no socket
            await self._unblocked()
        return got

    def write(self, buf):
        self._out = buf

    async def drain(self):
        while self._out:
            sent = self._tls.write(self._out)  # after None, the same again: mbedTLS needs it
            if sent is None:
                await self._unblocked()
            else:
                self._open = True
                self._out = self._out[sent:]

    def _unblocked(self):  # async, as in asyncio.stream
        link, queue = self._link, core._io_queue
        if link.paused and self._open:
            yield from asyncio.sleep_ms(0)
        elif link.paused:
            # Not 0 ms: what came by other lines during a step would have its turn after the next.
            # And nobody else may be late: two stalls do not add up.
            late = True
            while late or self._busy():
                began = ticks_ms()
                yield from asyncio.sleep_ms(_LOOK_MS)
                late = ticks_diff(ticks_ms(), began) > 2 * _LOOK_MS
        elif link.reading:
            yield queue.queue_read(self._plain.s)
        else:
            yield queue.queue_write(self._plain.s)

    def close(self):
        pass

    async def wait_closed(self):
        self._tls.close()
        await self._plain.wait_closed()  # a handshake that failed has forgotten the socket
