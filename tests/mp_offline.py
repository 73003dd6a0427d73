# heap: 4096k
# Three days without a broker, at one transaction per 20 minutes: the station's metering,
# transactions, ledger and health in simulated time, and then its outbox. Nothing is lost, the
# status is as designed, and all goes up in order. Two hours of it outside the nightly run.
import asyncio
import os
from hashlib import sha256

import ocpp_terms as terms
from mptest import at_last
from mqtt_broker import Broker, Counts, accept, split_publish, until
from station_sim import Decision, FlashLedger, World

from chargekeep import cbor, health
from chargekeep.credential import cose, ed25519
from chargekeep.sync.mqtt import MqttClient
from chargekeep.sync.outbox import Outbox
from chargekeep.transaction.evidence import attest

HOURS = 72 if os.getenv("CHARGEKEEP_NIGHTLY") == "1" else 2
TRANSACTIONS = 3 * HOURS
RESERVE = 120
_THINNED, _EVIDENCE = 13, 15  # record types
SEED = b"\5" * 32
PUBLIC = ed25519.public_key(SEED)
BEGIN_WH = 180_200


def sign(message):
    return ed25519.sign_async(SEED, message)


def state(w):
    station, ledger = w.station, w.ledger._ledger
    fault = station.sampler.fault or not station.sampler.samples
    quality = station.timebase.quality
    reasons = health.reasons(fault, quality, False, ledger.free_slots, RESERVE)
    return health.assess(False, station.machine.unsafe, reasons), reasons


async def transaction(w, i):
    assert w.station.machine.present(Decision(cti=b"%08d" % i)) is True
    assert w.run(300)
    if i == TRANSACTIONS // 2:  # the power goes while somebody charges
        w.cut()
        w.run(30)
        w.boot()
    assert w.run(300)
    machine, ledger = w.station.machine, w.ledger._ledger
    machine.stop()
    assert w.run(5) and not machine.transaction
    await attest(machine, ledger, "depot", "cp-1", "sdm630", b"kid!", sign)
    await ledger.append_head(sign)


class Host:
    """Takes batches as the reconciler does: in order, chained, each acknowledged."""

    def __init__(self):
        self.last = 0
        self.link = None
        self.counts = {}  # by record type
        self.records = {}  # of energy: (record type, body) by the seq that it had at first

    def script(self, link, data):
        if data[0] & 0xF0 == 0x30:
            _, topic, _, payload = split_publish(data)
            if "/log/" in topic:
                self.take(payload)
        return accept(link, data)

    def take(self, data):
        digest = cose.open_sign1(data[:119], cose.LEDGER_BATCH, lambda kid, kind: PUBLIC)
        assert cbor.loads(digest) == sha256(data[119:]).digest()
        batch = cbor.loads(data[119:])
        assert batch.get(14, batch[11] - 1) == self.last, "a gap that was not declared"
        assert batch[12] == self.link or self.link is None or 14 in batch
        self.last = batch[11] - 1
        for _, _, slots, link in batch[13]:
            at = 0
            while at < len(slots):
                end = at + 2 + (slots[at + 1] & 63)
                self.last += 1
                self.slot(slots[at], slots[at + 1], slots[at + 2 : end])
                at = end
            self.link = link
        task = self.outbox.acknowledged(cbor.dumps([batch[10], self.last, self.link]))
        self.acknowledged = asyncio.create_task(task)

    def slot(self, kind, flags, part):
        if flags & 0x40:
            self.begun, self.payload = self.last, b""
        self.payload += part
        if flags & 0x80:
            seq, payload = self.begun, self.payload
            if kind & 0x80:  # moved, when the ring was full
                seq, payload = int.from_bytes(payload[:4], "little"), payload[4:]
            kind &= 31
            self.counts[kind] = self.counts.get(kind, 0) + 1
            if kind in (terms.RECORD_STARTED, terms.RECORD_ENDED, terms.RECORD_UNATTRIBUTED):
                assert seq not in self.records
                self.records[seq] = kind, cbor.loads(payload)[4:]

    def replay(self):
        """(number of transactions, their Wh, unattributed Wh), in the order of events."""
        count = wh = unattributed_wh = 0
        begin = None
        for seq in sorted(self.records):
            kind, body = self.records[seq]
            if kind == terms.RECORD_STARTED:
                count += 1
                assert begin is None and body[0] == count
                begin = body[6]
            elif kind == terms.RECORD_ENDED:
                assert body[0] == count and body[4] > begin
                wh += body[4] - begin
                begin = None
            elif kind == terms.RECORD_UNATTRIBUTED:
                unattributed_wh += body[1] - body[0]
        return count, wh, unattributed_wh


async def open_ack(data):
    return cbor.loads(data)


def drained(ledger, outbox):
    # Notes of acknowledgements may be left: they are no news.
    return not outbox._flight and at_last(ledger.batch(ledger.acknowledged, 64)) is None


async def test_days_without_a_broker():
    w = World(wh=BEGIN_WH, ledger=FlashLedger(64))
    w.boot()
    assert w.run(3)
    backlog = 0
    for i in range(TRANSACTIONS):
        await transaction(w, i)
        assert w.run(595)
        ledger = w.ledger._ledger
        ledger.maintain()
        assert state(w) == (health.OPERATIONAL, []), (i, state(w))
        assert ledger.backlog > backlog and ledger.acknowledged == 0
        backlog = ledger.backlog
    print("backlog %d, free %d" % (backlog, ledger.free_slots))
    host = Host()
    count = Counts()
    client = MqttClient(Broker(host.script).open, "cp-1", count)
    outbox = Outbox(client, ledger, "depot", "cp-1", b"kid!", sign, open_ack, count, poll_ms=20)
    host.outbox = outbox
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(outbox.run())]
    await until(lambda: count.errors or drained(ledger, outbox), 600_000)
    for task in tasks:
        task.cancel()
    assert not count.errors and outbox.resent == 0, count.details
    print(host.counts)
    assert host.counts[_EVIDENCE] == TRANSACTIONS
    assert HOURS < 24 or host.counts[_THINNED], "a full ring drops what is between start and end"
    transactions, wh, unattributed_wh = host.replay()
    assert transactions == TRANSACTIONS and wh >= 1800 * TRANSACTIONS
    rest = w.station.sampler.register_wh - w.station.machine.accounted_wh
    assert wh + unattributed_wh + rest == w.station.sampler.register_wh - BEGIN_WH
    assert ledger.free_slots > 3000
