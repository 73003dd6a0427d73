# What the outbox sends, when it sends it again, and what alone frees flash.
import asyncio
import hashlib

from mqtt_broker import Broker, Counts, accept, split_publish, until

from chargekeep import cbor, errors
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.sync.mqtt import MqttClient
from chargekeep.sync.outbox import Outbox

SITE, NAME = "depot", "cp-1"


class FakeLedger:
    """The contract of the ledger; slot n has two bytes of payload, and n in its link."""

    log_id = b"L" * 16

    def __init__(self, head):
        self.head_seq = head
        self.acknowledged = 0
        self.lost = ()

    def batch(self, after, max_bytes, short):
        assert short
        yield
        first = after + 1
        while first in self.lost:
            first += 1
        last = first - 1
        while last < self.head_seq and (last - first + 2) * 64 <= max_bytes:
            if last + 1 in self.lost:
                break
            last += 1
        if last >= first:
            slots = b"\5\xc2ab" * (last - first + 1)
            yield first, last, link(first - 1), [[1, 0, slots, link(last)]]

    def acknowledge(self, log_id, seq, its_link):
        if log_id != self.log_id or its_link != link(seq) or seq > self.head_seq:
            raise ChargekeepError(errors.LEDGER_ACKNOWLEDGEMENT)
        self.acknowledged = seq


async def sign(message):
    await asyncio.sleep_ms(0)
    return b"s" * 64


def link(seq):
    return bytes([seq & 255]) * 8


class Station:
    def __init__(self, head, script=None, answer=True, **options):
        self.ledger = FakeLedger(head)
        self.answer = answer
        self.sent = []  # (link number, first, last, follows)
        self.names = []  # (of the batch before, its own) of each
        self.topics = []
        self.broker = Broker(script or self.script)
        self.count = Counts()
        self.client = MqttClient(
            self.broker.open, NAME, self.count, timeout_ms=500, backoff_ms=(10, 20)
        )
        for name, value in (("poll_ms", 20), ("max_bytes", 640), ("ack_timeout_ms", 200)):
            options.setdefault(name, value)
        self.outbox = Outbox(
            self.client,
            self.ledger,
            SITE,
            NAME,
            b"kid!",
            sign,
            self.open_ack,
            self.count,
            **options,
        )

    async def open_ack(self, data):
        log_id, seq, its_link = cbor.loads(data)
        return log_id, seq, its_link

    def script(self, here, data):
        self.record(here, data)
        return accept(here, data)

    def record(self, here, data):
        if data[0] & 0xF0 != 0x30:
            return
        header, topic, _, payload = split_publish(data)
        self.topics.append((topic, header & 1, payload))
        if "/log/" not in topic:
            return
        kind, kid, _, digest, signature = cose.parse(payload[:119])
        assert (kind, kid, signature) == (65011, b"kid!", b"s" * 64)
        body = payload[119:]
        assert cbor.loads(digest) == hashlib.sha256(body).digest()
        name = cbor.loads(digest)[:16]
        body = cbor.loads(body)
        self.names.append((body.get(15), name))
        assert (body[2], body[3], body[10]) == (SITE, NAME, b"L" * 16)
        assert body[12] == link(body[11] - 1)
        assert body[13][0][2][:8] == b"\5\xc2ab\5\xc2ab"[: len(body[13][0][2])]
        assert body[13][0][3] == link(body[11] - 1 + len(body[13][0][2]) // 4)
        last = body[11] - 1 + sum([len(run[2]) for run in body[13]]) // 4
        self.sent.append((here.number, body[11], last, body.get(14)))
        if self.answer:
            self.task = asyncio.create_task(self.acknowledge(last))

    async def acknowledge(self, seq, log_id=b"L" * 16, its_link=None):
        await self.outbox.acknowledged(cbor.dumps([log_id, seq, its_link or link(seq)]))

    async def start(self):
        self.tasks = [
            asyncio.create_task(self.client.run()),
            asyncio.create_task(self.outbox.run()),
        ]
        await asyncio.wait_for_ms(self.client.wait_connected(), 2000)
        return self


async def test_drains_in_order_and_once():
    station = await Station(95).start()
    await until(lambda: station.ledger.acknowledged == 95)
    assert station.sent == [(0, i, min(i + 9, 95), None) for i in range(1, 96, 10)]
    assert station.outbox.resent == 0 and not station.count.errors
    station.ledger.head_seq = 97
    station.outbox.wake()
    await until(lambda: station.ledger.acknowledged == 97)
    assert station.sent[-1] == (0, 96, 97, None)


async def test_a_batch_names_the_one_that_was_sent_before_it():
    station = await Station(60, answer=False, ack_timeout_ms=5000).start()
    await until(lambda: len(station.sent) == 4)
    await station.acknowledge(20)
    await until(lambda: len(station.sent) == 6)
    assert station.names[0][0] is None
    assert [before for before, _ in station.names[1:]] == [name for _, name in station.names[:5]]
    station.broker.links[-1].end()
    await until(lambda: len(station.sent) == 10)
    assert station.sent[6][:2] == (1, 21)  # sent again: what follows it may be another batch now
    assert station.names[6][0] is None and station.names[7][0] == station.names[6][1]


async def test_topic_carries_the_partition():
    station = await Station(1).start()
    await until(lambda: station.sent)
    # SHA-256("cp-1") begins with 0xcd, which is 13 modulo 64
    assert ("chargekeep/1/depot/cp-1/up/log/p13") in [t for t, _, _ in station.topics]


async def test_window_stops_what_is_not_acknowledged():
    station = await Station(200, answer=False, window=3, ack_timeout_ms=5000).start()
    await until(lambda: len(station.sent) == 3)
    await asyncio.sleep_ms(100)
    assert len(station.sent) == 3 and station.ledger.acknowledged == 0
    await station.acknowledge(20)  # cumulative: two of the three
    await until(lambda: len(station.sent) == 5)
    assert station.sent[3][1:3] == (31, 40)


async def test_missing_acknowledgement_sends_again_ever_less_often():
    station = await Station(10, answer=False, ack_timeout_ms=50).start()
    await asyncio.sleep_ms(900)
    # Waits of 50, 100, 200, 400 ms, and then none shorter
    assert 4 <= len(station.sent) <= 6, station.sent
    assert {s[1:3] for s in station.sent} == {(1, 10)}
    assert station.count.errors[errors.SYNC_TIMEOUT] == len(station.sent) - 1
    assert station.ledger.acknowledged == 0


async def test_reconnect_resumes_from_the_acknowledged_cursor():
    station = Station(60, answer=False, ack_timeout_ms=5000)
    await station.start()
    await until(lambda: len(station.sent) == 4)
    await station.acknowledge(10)
    await until(lambda: len(station.sent) == 5)
    station.broker.links[-1].end()
    await until(lambda: len(station.sent) == 9)
    assert [s[:2] for s in station.sent[5:]] == [(1, 11), (1, 21), (1, 31), (1, 41)]
    assert station.outbox.resent == 4


async def test_only_a_matching_acknowledgement_frees():
    station = await Station(30, answer=False, ack_timeout_ms=5000).start()
    await until(lambda: len(station.sent) == 3)
    for log_id, seq, its_link in (
        (b"M" * 16, 10, None),  # another log
        (b"L" * 16, 10, b"x" * 8),  # another history
        (b"L" * 16, 31, None),  # beyond the head
        (b"M" * 16, 0, None),
    ):
        try:
            await station.acknowledge(seq, log_id, its_link)
            raise AssertionError("accepted")
        except ChargekeepError as e:
            assert e.code == errors.LEDGER_ACKNOWLEDGEMENT
    assert station.ledger.acknowledged == 0
    await station.acknowledge(20)
    await station.acknowledge(10)  # an old one again
    assert station.ledger.acknowledged == 20


async def test_status_goes_ahead_of_the_backlog_and_is_retained():
    station = Station(200, answer=False, ack_timeout_ms=5000)
    station.outbox.status(b'{"state":"offline_degraded"}')
    await station.start()
    await until(lambda: len(station.sent) == 4)
    base = "chargekeep/1/depot/cp-1/up/"
    assert station.topics[0] == (base + "connection", 1, b"online")
    assert station.topics[1] == (base + "status", 1, b'{"state":"offline_degraded"}')
    station.outbox.status(b'{"state":"online"}')
    await until(lambda: len(station.topics) == 7)  # with the window full
    assert station.topics[6] == (base + "status", 1, b'{"state":"online"}')
    station.broker.links[-1].end()
    count = len(station.topics)
    await until(lambda: len(station.topics) >= count + 2)
    assert station.topics[count + 1] == (base + "status", 1, b'{"state":"online"}')


async def test_lost_slots_are_declared():
    station = Station(30)
    station.ledger.lost = (11, 12, 13)
    await station.start()
    await until(lambda: station.ledger.acknowledged == 30)
    assert station.sent == [(0, 1, 10, None), (0, 14, 23, 10), (0, 24, 30, None)]


async def test_connection_lost_in_mid_batch_is_survived():
    fails = [3, 5, 6]

    def script(here, data):
        if data[0] & 0xF0 == 0x30 and len(station.topics) in fails:
            fails.remove(len(station.topics))
            here.end()
            return None
        return station.script(here, data)

    station = Station(150)
    station.broker.script = script
    await station.start()
    await until(lambda: station.ledger.acknowledged == 150)
    assert station.client.session == 4
    assert station.count.errors[errors.SYNC_CLOSED] >= 3


async def test_will_names_the_connection_topic():
    station = Station(1)
    assert station.outbox.will == ("chargekeep/1/depot/cp-1/up/connection", b"lost")


async def test_an_answer_is_published_once():
    here = await Station(3).start()
    here.outbox.answer(b"first")
    await until(lambda: [topic for topic, _, _ in here.topics if "diagnosis" in topic])
    here.broker.links[-1].end()
    await until(lambda: here.client.session == 2 and here.client.connected)
    here.outbox.answer(b"second")
    await until(lambda: [data for _, _, data in here.topics if data == b"second"])
    said = [(retain, data) for topic, retain, data in here.topics if "diagnosis" in topic]
    assert said == [(0, b"first"), (0, b"second")]


async def test_what_is_too_large_does_not_hold_up_the_records():
    here = Station(20)
    here.outbox.status(b"x" * 5000)
    here.outbox.answer(b"y" * 5000)
    await here.start()
    await until(lambda: here.ledger.acknowledged == 20)
    assert here.count.errors == {errors.SYNC_TOO_LARGE: 2}
