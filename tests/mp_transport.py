# Names are resolved without blocking, and nothing a name server says is believed unchecked.
import asyncio
import socket
import struct

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.sync import transport

NAME = "broker.example"
ALIAS = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01x\xc0\x13"
ADDRESS = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x01\x02\x03"


def answer_to(query, records=ADDRESS, count=1, flags=0x8180):
    return query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + query[12:] + records


def test_query_is_as_rfc_1035_says():
    assert transport.query(0x1234, NAME) == (
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06broker\x07example\x00\x00\x01\x00\x01"
    )


def test_answers_are_read_and_lies_are_not():
    query = transport.query(7, NAME)
    assert transport.parse(answer_to(query), 7) == "10.1.2.3"
    assert transport.parse(answer_to(query, ALIAS + ADDRESS, 2), 7) == "10.1.2.3"
    assert transport.parse(answer_to(query), 8) is None  # of another question
    assert transport.parse(answer_to(query, flags=0x8183), 7) is None  # no such name
    assert transport.parse(query, 7) is None  # not an answer
    assert transport.parse(answer_to(query, b"", 0), 7) is None


def test_cut_and_random_answers_are_survived():
    import random

    random.seed(3)
    whole = answer_to(transport.query(7, NAME), ALIAS + ADDRESS, 2)
    for size in range(len(whole)):
        assert transport.parse(whole[:size], 7) is None
    for _ in range(300):
        noise = bytearray(whole)
        for _ in range(4):
            noise[random.getrandbits(8) % len(noise)] = random.getrandbits(8)
        transport.parse(noise, 7)


def test_addresses_are_told_from_names():
    assert transport.is_address("10.0.0.1")
    assert not transport.is_address("broker.example")
    assert not transport.is_address("1.2.3.example")


class Server:
    """A name server on loopback that ignores the first `lost` questions."""

    def __init__(self, lost):
        self.lost = lost
        self.asked = 0
        self.link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = 20000
        while True:
            try:
                self.link.bind(socket.getaddrinfo("127.0.0.1", self.port)[0][-1])
                break
            except OSError:
                self.port += 1
        self.link.setblocking(False)

    async def run(self):
        while True:
            await asyncio.sleep_ms(5)
            try:
                query, sender = self.link.recvfrom(512)
            except OSError:
                continue
            self.asked += 1
            if self.asked > self.lost:
                self.link.sendto(answer_to(query), sender)


async def test_lost_datagrams_are_asked_for_again():
    server = Server(lost=2)
    task = asyncio.create_task(server.run())
    assert await transport.resolve(NAME, "127.0.0.1", 100, server.port) == "10.1.2.3"
    assert server.asked == 3
    task.cancel()


async def test_silent_server_is_given_up_without_blocking():
    server = Server(lost=99)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep_ms(5)
            ticks += 1

    tasks = [asyncio.create_task(tick()), asyncio.create_task(server.run())]
    try:
        await transport.resolve(NAME, "127.0.0.1", 60, server.port)
        raise AssertionError
    except ChargekeepError as e:
        assert e.code == errors.SYNC_CONNECT
    assert ticks > 20
    for task in tasks:
        task.cancel()


async def test_tls_needs_something_to_trust():
    whole = {5: "cp-1", 7: True, 8: b"no certificate", 9: b"", 10: b"", 11: bytes(16)}
    for names in ((), (8,), (11,)):
        settings = {name: whole[name] for name in (7,) + names}
        for _ in range(2):  # each connection says so; the charger goes on
            try:
                await transport.Transport("127.0.0.1", 9, settings).open()
                raise AssertionError
            except ChargekeepError as e:
                assert e.code == errors.CONFIG
