# The ledger on sound flash: what goes in comes out, across sectors, mounts and acknowledgements.
# also: cpython

import os

from mptest import at_last, raises
from nor import NorFile
from nor_sim import fresh, mounted

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import record
from chargekeep.ledger.ring import Ledger

LOG = b"0123456789abcdef"
KEY = bytes(range(32))


class Clock:
    time = 1_800_000_000

    def stamp(self):
        self.time += 1
        return [self.time, 3, 7, 1234]


class File:
    def __init__(self, blocks=8):
        self.path = "/tmp/chargekeep-ledger-%s.nor" % os.urandom(6).hex()
        self.device = NorFile(self.path, blocks)

    def __enter__(self):
        Ledger.format(self.device, LOG, KEY)
        return self

    def __exit__(self, *_):
        self.device.close()
        os.remove(self.path)

    def mount(self):
        ledger = Ledger(self.device, KEY, Clock())
        ledger.mount()
        return ledger


def same(ledger, expected):
    expected = iter(expected)
    for seq, kind, body in ledger.records():
        assert (seq, kind, body[4:]) == next(expected)
    return not list(expected)


def test_append_and_mount():
    with File() as file:
        ledger = file.mount()
        assert ledger.head[0] == 0 and ledger.backlog == 0
        expected = []
        for i in range(110):
            if i % 10 == 9:
                ledger = file.mount()
            body = [i, b"x" * (i % 50)]
            seq = ledger.append(record.METER_VALUE, body)
            expected.append((seq, record.METER_VALUE, body))
            assert ledger.head[0] >= seq
        assert same(ledger, expected)
        head = ledger.head
        ledger = file.mount()
        assert ledger.head == head
        assert same(ledger, expected)
        seqs = [seq for seq, _, _ in ledger.records(expected[60][0])]
        assert seqs == [seq for seq, _, _ in expected[60:]]


def test_counters():
    with File() as file:
        ledger = file.mount()
        for i in range(100):
            ledger.advance(i % 8, i + 1)
        for i in range(8):
            assert ledger.counter(i) == [97, 98, 99, 100, 93, 94, 95, 96][i]
        e = raises(ChargekeepError, ledger.advance, 0, 96)
        assert e.code == errors.COUNTER_DECREASE
        ledger.advance(0, 97)
        ledger = file.mount()
        assert [ledger.counter(i) for i in range(8)] == [97, 98, 99, 100, 93, 94, 95, 96]
        for i in range(130):
            ledger.append(record.METER_VALUE, [i])
        ledger = file.mount()
        assert [ledger.counter(i) for i in range(8)] == [97, 98, 99, 100, 93, 94, 95, 96]
        raises(ChargekeepError, ledger.advance, 16, 1)
        raises(ChargekeepError, ledger.advance, 1, 1 << 32)
        ledger.advance(1, 0xFFFFFFFF)
        assert file.mount().counter(1) == 0xFFFFFFFF


def test_batches_and_acknowledgement():
    with File(4) as file:
        ledger = file.mount()
        sent = []
        link = ledger.head[1]
        for i in range(1000):
            ledger.append_many([(5, [i, 0]), (3, [i, b"y" * 60])])
            if i % 12 == 11:
                while True:
                    batch = at_last(ledger.batch(ledger.acknowledged, 1000))
                    if batch is None:
                        break
                    first, last, before, runs = batch
                    assert before == link and first == ledger.acknowledged + 1
                    slots = b"".join([bytes(run[2]) for run in runs])
                    assert len(slots) <= 1000
                    link = slots[-12:-4]
                    sent.append(len(slots) // 64)
                    assert last == first + len(slots) // 64 - 1
                    raises(ChargekeepError, ledger.acknowledge, LOG, last, bytes(8))
                    raises(ChargekeepError, ledger.acknowledge, bytes(16), last, link)
                    raises(ChargekeepError, ledger.acknowledge, LOG, ledger.head[0] + 1, link)
                    ledger.acknowledge(LOG, last, link)
                    assert ledger.acknowledged == last
                assert ledger.backlog == 0
        assert sum(sent) >= 2988, sum(sent)
        acknowledged = ledger.acknowledged
        assert file.mount().acknowledged <= acknowledged


def test_notes_of_acknowledgements_are_no_backlog():
    device, store, ledger = fresh(8)
    for i in range(250):
        ledger.append(record.METER_VALUE, [i])
    seq, link = ledger.head
    after = 0
    while after < 180:
        _, after, _, runs = at_last(ledger.batch(after, 3000))
        ledger.acknowledge(ledger.log_id, after, runs[-1][3])
        assert ledger.backlog == seq - after
    ledger.acknowledge(ledger.log_id, seq, link)
    assert ledger.head[0] > seq + 1 and ledger.backlog == 0
    for _ in range(2):  # nor are they after a restart, and another
        ledger = mounted(device, store)
        assert (ledger.acknowledged, ledger.backlog) == (seq, 0)
        assert at_last(ledger.batch(seq, 3000)) is None
    ledger.append(record.METER_VALUE, [0])
    assert ledger.backlog == ledger.head[0] - seq


def test_full_refuses_but_lets_transactions_end():
    with File(3) as file:
        ledger = file.mount()
        count = 0
        while ledger.free_slots:
            try:
                ledger.append(record.TX_STARTED, [count])
            except ChargekeepError as e:
                assert e.code == errors.LEDGER_FULL
                break
            count += 1
        ended = ledger.append(record.TX_ENDED, [1, 2, 3, 4, 5])
        assert count == 116, count  # the page that may have been touched before the mount is left
        assert [r[0] for r in ledger.records(ended)] == [ended]
        ledger.acknowledge(LOG, *ledger.head)
        ledger.append(record.TX_STARTED, [0])


def test_foreign_flash_is_refused_and_kept():
    path = "/tmp/chargekeep-foreign-%s.nor" % os.urandom(6).hex()
    device = NorFile(path, 4)
    try:
        for content in (b"littlefs", b"\0" * 64, b"CKL"):
            device.ioctl(6, 2)
            device.writeblocks(2, content, 0)
            e = raises(ChargekeepError, Ledger.format, device, LOG, KEY)
            assert e.code == errors.LEDGER_FOREIGN
            e = raises(ChargekeepError, Ledger(device, KEY, Clock()).mount)
            assert e.code == errors.LEDGER_FOREIGN
            kept = bytearray(len(content))
            device.readblocks(2, kept, 0)
            assert kept == content
        Ledger.format(device, LOG, KEY, force=True)
        e = raises(ChargekeepError, Ledger.format, device, bytes(16), KEY)
        assert e.code == errors.LEDGER_FOREIGN
        Ledger.format(device, LOG, KEY)
    finally:
        device.close()
        os.remove(path)


def test_the_tail_is_withheld_until_it_is_settled():
    with File() as file:
        ledger = file.mount()
        ledger.append(record.METER_VALUE, [1])
        last = ledger.append_many([(record.METER_VALUE, [2]), (record.METER_VALUE, [3])])
        ledger = file.mount()
        (run,) = at_last(ledger.batch(0, 4000))[3]
        assert len(run[2]) == 64
        assert at_last(ledger.batch(1, 4000)) is None
        raises(ChargekeepError, ledger.acknowledge, LOG, *ledger.head)
        ledger.append(record.BOOT, [0, "1"])
        assert sum([len(run[2]) for run in at_last(ledger.batch(1, 4000))[3]]) == 3 * 64
        ledger.acknowledge(LOG, *ledger.head)
        assert last == 3


def test_records_that_are_too_long_or_of_no_type():
    with File() as file:
        ledger = file.mount()
        for kind, body in ((5, [b"x" * 600]), (0, []), (32, []), (record.COUNTER, [1, 2])):
            assert raises(ChargekeepError, ledger.append, kind, body).code == errors.LEDGER_RANGE
        assert ledger.head[0] == 0
        ledger.append(31, [b"x" * 550])
        assert file.mount().head[0] == 12


async def test_signed_heads():
    with File() as file:
        ledger = file.mount()
        ledger.append(record.METER_VALUE, [1])
        seq, link = ledger.head
        signed = []

        async def sign(message):
            signed.append(message)
            ledger.append(record.METER_VALUE, [2])  # what comes meanwhile is not signed
            return b"s" * 64

        last = await ledger.append_head(sign)
        assert signed == [b"chargekeep head 1" + LOG + seq.to_bytes(4, "little") + link]
        bodies = [body[4:] for _, kind, body in ledger.records(last) if kind == record.HEAD]
        assert bodies == [[seq, link, b"s" * 64]]
