# A broker in memory for mp_mqtt.py and its like: no socket, every byte under the test's control.

import asyncio


class Link:
    """Both ends of one connection: the client's reader and writer, and the broker's hand."""

    def __init__(self, broker, number):
        self.broker = broker
        self.number = number
        self.writes = []  # one entry a write
        self.closed = False
        self.stuck = False  # the peer's window is shut: drain never ends
        self._data = b""
        self._news = asyncio.Event()

    def feed(self, data):
        self._data += data
        self._news.set()

    def end(self):
        self.closed = True
        self._news.set()

    async def readinto(self, buf):
        while not self._data and not self.closed:
            self._news.clear()
            await self._news.wait()
        n = min(len(buf), len(self._data), self.broker.chunk)
        buf[:n] = self._data[:n]
        self._data = self._data[n:]
        return n

    def write(self, data):
        data = bytes(data)
        self.writes.append(data)
        self.broker.received.append(data)
        answer = self.broker.script(self, data)
        if answer:
            self.feed(answer)

    async def drain(self):
        while self.stuck:
            await asyncio.sleep_ms(10)
        await asyncio.sleep_ms(0)

    def close(self):
        pass

    async def wait_closed(self):
        self.closed = True


class Broker:
    """`script(link, packet) -> answer bytes or None`; the default accepts and acknowledges all."""

    def __init__(self, script=None, chunk=1 << 20):
        self.script = script or accept
        self.chunk = chunk  # most bytes that one read gives
        self.links = []
        self.received = []

    async def open(self):
        link = Link(self, len(self.links))
        self.links.append(link)
        return link, link


def accept(link, data):
    kind = data[0] & 0xF0
    if kind == 0x10:
        return b"\x20\x02\x00\x00"
    if kind == 0x30:
        _, _, packet_id, _ = split_publish(data)
        return b"\x40\x02" + packet_id
    if kind == 0x80:
        return b"\x90\x03" + data[2:4] + b"\x01"
    if kind == 0xA0:
        return b"\xb0\x02" + data[2:4]
    if kind == 0xC0:
        return b"\xd0\x00"
    return None


def remaining(data):
    """(length, offset of the body) of a packet."""
    length = shift = 0
    at = 1
    while True:
        byte = data[at]
        length |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return length, at


def split_publish(data):
    """(header, topic, packet id, payload) of a whole PUBLISH packet of QoS 1."""
    length, at = remaining(data)
    assert len(data) == at + length, "one write a packet"
    n = data[at] << 8 | data[at + 1]
    topic = data[at + 2 : at + 2 + n].decode()
    at += 2 + n
    return data[0], topic, data[at : at + 2], data[at + 2 :]


def publish(topic, payload, packet_id=7, qos=1):
    """A PUBLISH packet from the broker."""
    topic = topic.encode()
    body = bytes((len(topic) >> 8, len(topic) & 255)) + topic
    if qos:
        body += bytes((packet_id >> 8, packet_id & 255))
    body += payload
    length = b""
    n = len(body)
    while True:
        length += bytes((n & 127 | (128 if n > 127 else 0),))
        n >>= 7
        if not n:
            return bytes((0x30 | qos << 1,)) + length + body


class Counts:
    """Stands for Health: counts by code."""

    def __init__(self):
        self.errors = {}
        self.details = []

    def __call__(self, code, detail=""):
        self.errors[code] = self.errors.get(code, 0) + 1
        self.details.append(detail)


async def until(condition, ms=3000):
    for _ in range(ms // 10):
        if condition():
            return
        await asyncio.sleep_ms(10)
    raise AssertionError("did not happen")
