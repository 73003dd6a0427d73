# MQTT 3.1.1 client for asyncio (OASIS standard; section numbers below are its own). It promises
# that no socket operation outlives its deadline, that a packet leaves in one write, and that
# whatever the broker or the network does ends in a counted error and a reconnect. It costs its two
# buffers, allocated once, and three tasks.

import asyncio
import random
from time import ticks_diff, ticks_ms

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_CONNECT = const(0x10)  # 2.2.1, with the flags of 2.2.2
_CONNACK = const(0x20)
_PUBLISH = const(0x30)
_PUBACK = const(0x40)
_SUBSCRIBE = const(0x82)
_SUBACK = const(0x90)
_UNSUBSCRIBE = const(0xA2)
_UNSUBACK = const(0xB0)
_PINGREQ = const(0xC0)
_PINGRESP = const(0xD0)
_LAST_ID = const(65535)
_LENGTH_BYTES = const(4)  # 2.2.3
_WATCH_MS = const(100)


class MqttClient:
    """One connection to a broker at a time, clean session, QoS 1, kept up by `run`.

    open_connection: async callable giving asyncio's (reader, writer); TLS is its business.
    count: `count(code, detail)` is told of every failure (health.py).
    will: (topic, payload) published retained by the broker when the connection is lost, or None.
    keepalive: seconds; timeout_ms: for every step of the connection; backoff_ms: (first, longest).
    receive, send: bytes of the two buffers; a larger packet is skipped (in) or refused (out).
    window: PUBLISH packets that may wait for their PUBACK.

    `await on_message(topic, payload)` gets str and a memoryview that is valid until it returns;
    the PUBACK follows. It may subscribe, but not publish: it would wait for what it holds up.
    `session` counts connections and changes whenever in-flight packets were given up.
    """

    def __init__(
        self,
        open_connection,
        client_id,
        count,
        user=None,
        password=None,
        will=None,
        keepalive=60,
        timeout_ms=10_000,
        backoff_ms=(1_000, 60_000),
        receive=4096,
        send=2048,
        window=8,
        on_message=None,
    ):
        self.open_connection = open_connection
        self.client_id = client_id
        self.count = count
        self.user = user
        self.password = password
        self.will = will
        self.keepalive = keepalive
        self.timeout_ms = timeout_ms
        self.backoff_ms = backoff_ms
        self.window = window
        self.on_message = on_message
        self.connected = False
        self.session = 0
        self._filters = []
        self._in = memoryview(bytearray(receive))
        self._lo = self._hi = 0
        self._out = memoryview(bytearray(send))
        self._out_len = 0
        self._lock = asyncio.Lock()  # who may fill _out
        self._ready = asyncio.Event()  # _out is filled
        self._news = asyncio.Event()  # pulsed when anything below changed
        self._pending = set()  # packet ids without their PUBACK
        self._packet_id = 0
        self._failure = None
        self._sent_at = self._heard_at = self._asked_at = 0  # ticks
        self._pinged = self._busy = False

    # -- what the application calls

    async def run(self):
        """Connect, serve, and connect again after a back-off, for ever."""
        first, longest = self.backoff_ms
        delay = first
        while True:
            self._accepted_at = None
            try:
                await self._serve()
            except ChargekeepError as e:
                self.count(e.code, e.detail)
            at = self._accepted_at
            if at is not None and ticks_diff(ticks_ms(), at) > delay:
                delay = first  # it held for a while: not the broker that drops everyone at once
            # Half to one and a half: a fleet must not come back in step after a power cut.
            await asyncio.sleep_ms(delay // 2 + random.getrandbits(16) * delay // 65536)
            delay = min(2 * delay, longest)

    async def publish(self, topic, payload, retain=False, more=b""):
        """Send at QoS 1. The PUBACK is not awaited: it says nothing about storage.

        `more` follows `payload`, so that two parts need not be joined before.

        Waits while the window is full. Raises SYNC_CLOSED when there is no connection or it is
        lost on the way, SYNC_TOO_LARGE when the packet exceeds the send buffer.
        """
        session = self.session
        self._check(session)
        while len(self._pending) >= self.window:
            await self._changed(session)
        topic = topic.encode()
        length = 4 + len(topic) + len(payload) + len(more)
        async with self._lock:
            await self._own_out(session)
            at = self._begin(_PUBLISH | 2 | int(retain), length)
            at = self._put(at, topic)
            packet_id = self._next_id()
            at = self._put_u16(at, packet_id)
            for part in (payload, more):
                self._out[at : at + len(part)] = part
                at += len(part)
            self._ask()
            self._pending.add(packet_id)
            await self._flush(at, session)

    async def subscribe(self, topic_filter):
        """Ask for a filter now, where connected, and on every connection from now on.

        Asking again brings what is retained again (3.8.4).
        """
        if topic_filter not in self._filters:
            self._filters.append(topic_filter)
        if self.connected:
            await self._filter(_SUBSCRIBE, topic_filter)

    async def unsubscribe(self, topic_filter):
        if topic_filter in self._filters:
            self._filters.remove(topic_filter)
            if self.connected:
                await self._filter(_UNSUBSCRIBE, topic_filter)

    async def wait_connected(self):
        while not self.connected:
            await self._news.wait()

    # -- one connection

    async def _serve(self):
        self._lo = self._hi = 0
        self._failure = None
        try:
            reader, writer = await asyncio.wait_for_ms(self.open_connection(), self.timeout_ms)
        except asyncio.TimeoutError:
            raise ChargekeepError(errors.SYNC_TIMEOUT, "connect")
        except (OSError, ValueError) as e:  # ValueError: what mbedTLS makes of a bad certificate
            raise ChargekeepError(errors.SYNC_CONNECT, str(e))
        self.session += 1
        self._sent_at = self._heard_at = self._asked_at = ticks_ms()
        self._pinged = self._busy = False
        self._ready.clear()
        self._tasks = [
            asyncio.create_task(self._guard(self._read(reader))),
            asyncio.create_task(self._guard(self._write(writer))),
        ]
        try:
            self._out_len = self._connect_packet()
            self._ready.set()
            while self._failure is None:
                await asyncio.sleep_ms(_WATCH_MS)
                self._watch()
        finally:
            self.connected = False
            self._pending.clear()
            for task in self._tasks:
                task.cancel()
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass  # it was broken already
            self._pulse()
        raise self._failure

    async def _guard(self, coroutine):
        # A task's end is the connection's end, whatever ended it.
        try:
            await coroutine
        except ChargekeepError as e:
            self._fail(e)
        except (OSError, EOFError) as e:
            code = errors.SYNC_CLOSED if self.connected else errors.SYNC_CONNECT
            self._fail(ChargekeepError(code, str(e)))
        except Exception as e:
            # Before the CONNACK it is mbedTLS with its ValueError about a certificate; later a
            # handler's bug, or no memory.
            code = errors.UNEXPECTED if self.connected else errors.SYNC_CONNECT
            self._fail(ChargekeepError(code, repr(e)))

    def _fail(self, error):
        if self._failure is None:
            self._failure = error
        self.connected = False
        self._pulse()

    def _watch(self):
        now = ticks_ms()
        if self._ready.is_set() and ticks_diff(now, self._sent_at) > self.timeout_ms:
            self._fail(ChargekeepError(errors.SYNC_TIMEOUT, "write"))
        elif self._busy:
            return  # a message is with its handler, and the answers we wait for are behind it
        elif not self.connected or self._pinged or self._pending:
            if ticks_diff(now, self._asked_at) > self.timeout_ms:
                if ticks_diff(now, self._heard_at) > self.timeout_ms:
                    self._fail(ChargekeepError(errors.SYNC_TIMEOUT, "answer"))
        elif self.keepalive:
            # 3.1.2.10, at half the interval; and when nothing was heard, to find a dead link.
            half_ms = self.keepalive * 500
            if max(ticks_diff(now, self._sent_at), ticks_diff(now, self._heard_at)) > half_ms:
                self._ask()
                self._pinged = True
                self._tasks.append(asyncio.create_task(self._guard(self._bare(_PINGREQ))))

    def _ask(self):
        if not self._pinged and not self._pending:
            self._asked_at = ticks_ms()

    # -- writing: one owner of _out fills it, the writer task sends it in one write

    async def _write(self, writer):
        while True:
            await self._ready.wait()
            self._sent_at = ticks_ms()
            writer.write(self._out[: self._out_len])
            await writer.drain()
            self._ready.clear()
            self._pulse()

    async def _own_out(self, session):
        # With the lock held; a packet of a cancelled task may still be on its way out.
        self._check(session)
        while self._ready.is_set():
            await self._changed(session)

    async def _flush(self, length, session):
        self._out_len = length
        self._sent_at = ticks_ms()
        self._ready.set()
        while self._ready.is_set():
            await self._changed(session)

    def _begin(self, header, length):
        if length + 1 + _LENGTH_BYTES > len(self._out):
            raise ChargekeepError(errors.SYNC_TOO_LARGE, "%d bytes out" % length)
        self._out[0] = header
        at = 1
        while True:  # 2.2.3: seven bits a byte, lowest first
            self._out[at] = length & 127 | (128 if length > 127 else 0)
            at += 1
            length >>= 7
            if not length:
                return at

    def _put(self, at, data):
        at = self._put_u16(at, len(data))
        self._out[at : at + len(data)] = data
        return at + len(data)

    def _put_u16(self, at, value):
        self._out[at] = value >> 8
        self._out[at + 1] = value & 255
        return at + 2

    def _connect_packet(self):
        fields = [self.client_id.encode()]
        flags = 2  # clean session, 3.1.2.4: the ledger is the session state
        if self.will:
            flags |= 4 | 8 | 32  # will, QoS 1, retained
            fields += [self.will[0].encode(), self.will[1]]
        if self.user is not None:
            flags |= 128
            fields.append(self.user.encode())
        if self.password is not None:
            flags |= 64
            fields.append(self.password.encode())
        at = self._begin(_CONNECT, 10 + sum([2 + len(f) for f in fields]))
        at = self._put(at, b"MQTT")
        self._out[at] = 4  # protocol level, 3.1.2.2
        self._out[at + 1] = flags
        at = self._put_u16(at + 2, self.keepalive)
        for field in fields:
            at = self._put(at, field)
        return at

    async def _bare(self, header, packet_id=None):
        session = self.session
        async with self._lock:
            await self._own_out(session)
            at = self._begin(header, 0 if packet_id is None else 2)
            if packet_id is not None:
                at = self._put_u16(at, packet_id)
            await self._flush(at, session)

    async def _filter(self, header, topic_filter):
        session = self.session
        name = topic_filter.encode()
        asks = header == _SUBSCRIBE
        async with self._lock:
            await self._own_out(session)
            at = self._begin(header, 4 + len(name) + int(asks))
            at = self._put(self._put_u16(at, self._next_id()), name)
            if asks:
                self._out[at] = 1  # QoS
                at += 1
            await self._flush(at, session)

    def _next_id(self):
        # 2.3.1: 1 to 65535, and none that is in use.
        while True:
            self._packet_id = self._packet_id % _LAST_ID + 1
            if self._packet_id not in self._pending:
                return self._packet_id

    def _check(self, session):
        if session != self.session or not self.connected:
            raise ChargekeepError(errors.SYNC_CLOSED, "not connected")

    async def _changed(self, session):
        await self._news.wait()
        self._check(session)

    def _pulse(self):
        self._news.set()
        self._news.clear()

    # -- reading: one task, one buffer; [_lo, _hi) is what came and is not yet used

    async def _need(self, n, reader):
        """Have at least n bytes at _lo."""
        if self._lo + n > len(self._in):
            self._in[: self._hi - self._lo] = self._in[self._lo : self._hi]
            self._hi -= self._lo
            self._lo = 0
        while self._hi - self._lo < n:
            got = await reader.readinto(self._in[self._hi :])
            if got == 0:
                raise EOFError("closed by the broker")
            self._hi += got or 0  # None: TLS had no whole record yet

    async def _read(self, reader):
        while True:
            await self._need(2, reader)
            header = self._in[self._lo]
            length = shift = 0
            at = 1
            while True:
                await self._need(at + 1, reader)
                byte = self._in[self._lo + at]
                length |= (byte & 127) << shift
                at += 1
                shift += 7
                if byte < 128:
                    break
                if at > _LENGTH_BYTES:
                    raise ChargekeepError(errors.SYNC_PROTOCOL, "length")
            self._lo += at
            if not self.connected and header != _CONNACK:
                raise ChargekeepError(errors.SYNC_PROTOCOL, "no CONNACK")
            if header & 0xF0 == _PUBLISH:
                await self._publication(header, length, reader)
            else:
                if length > 64:
                    raise ChargekeepError(errors.SYNC_PROTOCOL, "packet %02x" % header)
                await self._need(length, reader)
                await self._answer(header, self._in[self._lo : self._lo + length])
                self._lo += length
            self._heard_at = ticks_ms()
            if self._lo == self._hi:
                self._lo = self._hi = 0

    async def _answer(self, header, body):
        if header == _PINGRESP and not body:
            self._pinged = False
        elif header == _CONNACK and len(body) == 2 and not self.connected:
            if body[1]:
                raise ChargekeepError(errors.SYNC_REFUSED, "CONNACK %d" % body[1])
            self.connected = True
            self._accepted_at = ticks_ms()
            self._pulse()
            for topic_filter in list(self._filters):
                await self._filter(_SUBSCRIBE, topic_filter)
        elif header == _PUBACK and len(body) == 2:
            self._pending.discard(body[0] << 8 | body[1])
            self._pulse()
        elif header == _SUBACK and len(body) == 3:
            if body[2] > 2:  # 3.9.3: 0x80 is failure
                self.count(errors.SYNC_REFUSED, "subscription")
        elif header != _UNSUBACK or len(body) != 2:
            raise ChargekeepError(errors.SYNC_PROTOCOL, "packet %02x" % header)

    async def _publication(self, header, length, reader):
        qos = header >> 1 & 3
        await self._need(2, reader)
        topic_len = self._in[self._lo] << 8 | self._in[self._lo + 1]
        head = 2 + topic_len + 2 * int(qos > 0)
        if qos > 1 or head > length or head > len(self._in):
            raise ChargekeepError(errors.SYNC_PROTOCOL, "PUBLISH")
        await self._need(head, reader)
        at = self._lo + 2 + topic_len
        try:
            topic = str(self._in[self._lo + 2 : at], "utf-8")
        except UnicodeError:
            raise ChargekeepError(errors.SYNC_PROTOCOL, "topic")
        packet_id = self._in[at] << 8 | self._in[at + 1] if qos else None
        if packet_id == 0:  # 2.3.1
            raise ChargekeepError(errors.SYNC_PROTOCOL, "packet id 0")
        if length > len(self._in):
            self.count(errors.SYNC_TOO_LARGE, topic)
            await self._skip(length, reader)
        else:
            await self._need(length, reader)
            at = self._lo + head
            self._busy = True
            if self.on_message:
                await self.on_message(topic, self._in[at : self._lo + length])
            self._heard_at = ticks_ms()  # the answers behind it have their time from now on
            self._busy = False
            self._lo += length
        if packet_id is not None:
            await self._bare(_PUBACK, packet_id)

    async def _skip(self, n, reader):
        while n:
            if self._lo == self._hi:
                self._lo = self._hi = 0
                await self._need(1, reader)
            step = min(n, self._hi - self._lo)
            self._lo += step
            n -= step
            self._heard_at = ticks_ms()
