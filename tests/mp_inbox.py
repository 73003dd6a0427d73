# What reaches a station is dispatched, and what must not reach a handler is counted.
import asyncio

from mqtt_broker import Broker, Counts, publish, until

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.sync.inbox import Inbox
from chargekeep.sync.mqtt import MqttClient

BASE = "chargekeep/1/depot/"


class Station:
    def __init__(self, handlers):
        self.broker = Broker()
        self.count = Counts()
        self.client = MqttClient(
            self.broker.open, "cp-1", self.count, timeout_ms=500, backoff_ms=(10, 20)
        )
        self.inbox = Inbox(self.client, "depot", "cp-1", handlers, self.count)

    async def start(self):
        await self.inbox.start()
        self.task = asyncio.create_task(self.client.run())
        await asyncio.wait_for_ms(self.client.wait_connected(), 2000)
        return self

    def feed(self, *messages):
        self.broker.links[-1].feed(b"".join([publish(*message) for message in messages]))


async def test_own_and_common_topics_reach_their_handlers():
    got = []

    async def tariff(payload):
        got.append(("tariff", payload))

    async def allowlist(payload, *levels):
        got.append(("allowlist", payload, levels))

    station = await Station({"tariff": tariff, "allowlist": allowlist}).start()
    station.feed(
        (BASE + "cp-1/down/tariff", b"1"),
        (BASE + "all/down/tariff", b"2"),
        (BASE + "all/down/allowlist", b"3"),
        (BASE + "all/down/allowlist/7/0", b"4"),
    )
    await until(lambda: len(got) == 4)
    assert got == [
        ("tariff", b"1"),
        ("tariff", b"2"),
        ("allowlist", b"3", ()),
        ("allowlist", b"4", ("7", "0")),
    ]
    assert type(got[0][1]) is bytes  # it outlives the client's buffer
    assert station.inbox.accepted == 4 and not station.count.errors


async def test_strange_topics_are_counted_and_acknowledged():
    async def tariff(payload):
        raise AssertionError

    station = await Station({"tariff": tariff}).start()
    station.feed(
        (BASE + "cp-2/down/tariff", b"1"),
        (BASE + "cp-1/down/coffee", b"2"),
        (BASE + "cp-1/up/status", b"3"),
        ("other", b"4"),
        (BASE + "cp-1/down/", b"5"),
    )
    await until(lambda: station.count.errors.get(errors.SYNC_TOPIC) == 5)
    await until(lambda: station.broker.received.count(b"\x40\x02\x00\x07") == 5)
    assert station.client.session == 1 and len(station.count.errors) == 1


async def test_starting_again_brings_retained_objects_again():
    got = []

    async def tariff(payload):
        got.append(payload)

    station = await Station({"tariff": tariff}).start()
    await until(lambda: len(station.broker.received) == 3)
    await station.inbox.start()
    sent = [packet for packet in station.broker.received if packet[0] == 0x82]
    assert len(sent) == 4 and len({packet[4:] for packet in sent}) == 2
    station.broker.links[-1].end()
    await until(lambda: station.client.session == 2 and station.client.connected)
    await until(lambda: len(station.broker.links[1].writes) == 3)


async def test_cleared_retained_object_is_nothing():
    async def tariff(payload):
        raise AssertionError

    station = await Station({"tariff": tariff}).start()
    station.feed((BASE + "cp-1/down/tariff", b""))
    await until(lambda: b"\x40\x02\x00\x07" in station.broker.received)
    assert not station.count.errors


async def test_handler_that_refuses_or_fails_is_counted():
    async def refuse(payload):
        raise ChargekeepError(errors.COSE_SIGNATURE, "forged")

    async def fail(payload):
        raise ValueError("bug")

    station = await Station({"tariff": refuse, "config": fail}).start()
    station.feed((BASE + "cp-1/down/tariff", b"1"), (BASE + "cp-1/down/config", b"1"))
    await until(lambda: len(station.count.errors) == 2)
    assert station.count.errors == {errors.COSE_SIGNATURE: 1, errors.UNEXPECTED: 1}
    assert station.client.connected and station.inbox.accepted == 0


async def test_deeper_topics_are_asked_for_and_given_up():
    station = await Station({}).start()
    await until(lambda: len(station.broker.received) == 3)
    await station.inbox.follow("allowlist/7/0")
    await station.inbox.unfollow("allowlist/7/0")
    sent = [bytes(packet[6:-1]) for packet in station.broker.received if packet[0] == 0x82]
    assert sent[2:] == [
        b"chargekeep/1/depot/cp-1/down/allowlist/7/0",
        b"chargekeep/1/depot/all/down/allowlist/7/0",
    ]
    assert sum([packet[0] == 0xA2 for packet in station.broker.received]) == 2
