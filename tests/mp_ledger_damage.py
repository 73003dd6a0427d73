# Damaged flash: every single bit, stuck bits, worn sectors, lost headers, foreign data, the end of
# the numbers. Nothing wrong is ever returned as right, damage stays where it is.
# also: cpython
# heap: 1536k
# nightly: test_every_bit
# nightly: test_a_thousand_wraps

import struct
import sys

from mptest import raises
from nor_sim import BLOCK, LOG, Chance, Clock, NorSim, PowerCut, fresh, mounted

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.ring import Ledger

FAST = sys.implementation.name == "cpython"


def listed(ledger):
    return [(seq, kind, body[4:]) for seq, kind, body in ledger.records()]


def filled(sectors, count):
    device, store, ledger = fresh(sectors)
    for i in range(count):
        if i % 9 == 8:
            ledger.advance(i % 5, i)
        else:
            ledger.append(record.METER_VALUE, [i, b"x" * (i % 40)])
    return device, store, ledger


def flip_bits(bits):
    """Flip each of `bits` of an image; (records lost, flips that cost nothing, flips seen)."""
    device, store, ledger = filled(3, 75)
    expected = listed(ledger)
    counters = [ledger.counter(i) for i in range(5)]
    lost = right = flagged = 0
    for bit in bits:
        device.data[bit >> 3] ^= 1 << (bit & 7)
        ledger = mounted(device, store)
        shown = listed(ledger)
        device.data[bit >> 3] ^= 1 << (bit & 7)
        assert [ledger.counter(i) for i in range(5)] == counters, bit
        missing = [r for r in expected if r not in shown]
        assert [r for r in expected if r in shown] == shown, "wrong at bit %d" % bit
        assert len(missing) <= 1, bit
        lost += len(missing)
        right += not missing
        in_slot = bit >> 3 & 4095 >= 256 and ledger._seq[bit >> 15]
        flagged += len(ledger.damage) > 0
        assert not in_slot or ledger.damage or blank(device, bit), bit
    return lost, right, flagged


def blank(device, bit):
    start = (bit >> 3) // 64 * 64
    return device.data[start : start + 64] == b"\xff" * 64


def test_flipped_bits():
    chance = Chance(9)
    bits = [chance.below(2 * BLOCK * 8) for _ in range(600 if FAST else 150)]
    print(flip_bits(bits))


def test_every_bit():
    print(
        "lost, right, flagged:", flip_bits(range(2 * BLOCK * 8) if FAST else range(256, 9000, 7))
    )


def test_damage_of_many_bits_stays_local():
    chance = Chance(10)
    for _ in range(60 if FAST else 15):
        device, store, ledger = filled(3, 75)
        expected = listed(ledger)
        at = 256 + chance.below(50) * 64
        for _ in range(2 + chance.below(30)):
            device.data[at + chance.below(64)] ^= 1 << chance.below(8)
        shown = listed(mounted(device, store))
        assert [r for r in expected if r in shown] == shown
        assert len(expected) - len(shown) <= 1


def test_lost_headers():
    for block in range(3):
        device, store, ledger = filled(10, 150)
        expected = listed(ledger)
        counters = [ledger.counter(i) for i in range(5)]
        device.data[block * BLOCK : block * BLOCK + 256] = bytes(256)
        if block == 2:  # the head: it goes on in the next sector
            assert ledger._head == 2
        ledger = mounted(device, store)
        assert listed(ledger) == expected
        assert [ledger.counter(i) for i in range(5)] == counters
        for i in range(70):
            expected.append((ledger.append(record.METER_VALUE, [i]), record.METER_VALUE, [i]))
        ledger = mounted(device, store)
        assert listed(ledger) == expected
        assert [ledger.counter(i) for i in range(5)] == counters


def test_a_head_that_is_gone_is_noticed():
    device, store, _ = filled(10, 150)
    device.data[2 * BLOCK : 3 * BLOCK] = b"\xff" * BLOCK
    e = raises(ChargekeepError, mounted, device, store)
    assert e.code == errors.LEDGER_TAMPERED


def test_stuck_bits():
    chance = Chance(5)
    for page_program in (False, True):
        device, store, ledger = fresh(12, page_program)
        device.stuck = {chance.below(8 * BLOCK): (0x1F, chance.below(2) * 255) for _ in range(12)}
        expected = []
        for i in range(400):
            expected.append((ledger.append(record.METER_VALUE, [i]), record.METER_VALUE, [i]))
            if i % 50 == 49:
                assert listed(ledger)[-30:] == expected[-30:]
                if i % 100 == 99:
                    ledger = mounted(device, store)
                    ledger.append(record.BOOT, [])
                    expected.append((ledger.head[0], record.BOOT, []))
                ledger.acknowledge(LOG, *ledger.head)


def test_worn_sectors():
    device, store, ledger = fresh(6)
    sound = []
    for i in range(900):
        if i in (100, 250, 400):
            device.worn = tuple(range(3, 3 + i // 130))  # three good ones remain
        sound.append(ledger.append(record.METER_VALUE, [i]))
        if i % 40 == 39:
            ledger.acknowledge(LOG, *ledger.head)
        if i % 130 == 129:
            ledger = mounted(device, store)
            ledger.append(record.BOOT, [])
    assert [seq for seq, kind, _ in listed(ledger) if kind == record.METER_VALUE][-20:] == sound[
        -20:
    ]
    # One good sector: refused, and nothing is lost
    device.worn = tuple(range(6))
    ledger.acknowledge(LOG, *ledger.head)
    refused = 0
    kept = []
    for i in range(200):
        try:
            kept.append(ledger.append(record.METER_VALUE, [i]))
        except ChargekeepError as e:
            assert e.code == errors.LEDGER_FULL
            refused += 1
    assert refused
    shown = [seq for seq, kind, _ in listed(mounted(device, store)) if seq >= (kept or [0])[0]]
    assert shown[-len(kept) :] == kept


def test_sequence_numbers_end():
    device, store, ledger = fresh(4)
    # A sector opened near the end of the numbers, made by hand
    ledger._next = 0xFFFFFF00 - 80
    ledger._index = 60
    for _ in range(79):
        ledger.append(record.METER_VALUE, [1])
    e = raises(ChargekeepError, ledger.append_many, [(record.METER_VALUE, [1])] * 2)
    assert e.code == errors.LEDGER_EXHAUSTED
    head = ledger.head
    assert mounted(device, store).head == head


def test_never_mounted_and_never_erased():
    chance = Chance(77)
    other = NorSim(4)
    Ledger.format(other, b"f" * 16, bytes(32))
    random = bytes([chance.below(256) for _ in range(4 * BLOCK)])
    lfs = b"\1\0\0\0\xf0\x0f\xff\xf7littlefs/\xe0\0\x10" + random[:4000]
    for content in (random, bytes(4 * BLOCK), lfs, bytes(other.data), b"CKL\x10" + random[4:]):
        device = NorSim(4)
        device.data[: len(content)] = content
        before = bytes(device.data)
        ledger = Ledger(device, bytes(32), Clock())
        ledger_of_another = content == bytes(other.data)
        if not ledger_of_another:
            assert raises(ChargekeepError, ledger.mount).code == errors.LEDGER_FOREIGN
        e = raises(ChargekeepError, Ledger.format, device, LOG, bytes(32))
        assert e.code == errors.LEDGER_FOREIGN
        assert device.data == before and device.operations == 0
    # Two ledgers on one device are none
    device, store, _ = fresh(4)
    device.data[BLOCK : BLOCK + 4096] = other.data[:BLOCK]
    assert raises(ChargekeepError, mounted, device, store).code == errors.LEDGER_FOREIGN


def test_another_key_is_noticed():
    device, _, _ = fresh(4)
    e = raises(ChargekeepError, Ledger(device, b"k" * 32, Clock()).mount)
    assert e.code == errors.LEDGER_TAMPERED
    reader = Ledger(device, b"k" * 32, Clock())
    reader.mount(read_only=True)
    assert raises(ChargekeepError, reader.append, 5, [1]).code == errors.LEDGER_VERSION


def test_newer_formats():
    device, store, ledger = fresh(4)
    for i in range(30):
        ledger.append(record.METER_VALUE, [i])
    before = listed(ledger)
    page = bytearray(device.data[:256])
    for version, readable in ((0x11, True), (0x1F, True), (0x20, False)):
        page[3] = version
        struct.pack_into("<I", page, 28, header.crc32(page[:28]))
        struct.pack_into("<I", page, 252, header.crc32(page[:252]))
        device.data[:256] = page
        operations = device.operations
        ledger = Ledger(device, None, Clock(), store)
        if not readable:
            assert raises(ChargekeepError, ledger.mount).code == errors.LEDGER_VERSION
            continue
        ledger.mount()
        assert not ledger.writable and listed(ledger) == before
        for call in (
            lambda ledger=ledger: ledger.append(5, [1]),
            lambda ledger=ledger: ledger.advance(1, 9),
            lambda ledger=ledger: ledger.start_boot([1]),
        ):
            assert raises(ChargekeepError, call).code == errors.LEDGER_VERSION
        assert not ledger.maintain() and device.operations == operations


def wraps(count):
    device, store, ledger = fresh(3)
    done = 0
    while ledger._header.seq < 3 * count:
        for _ in range(20):
            ledger.append_many([(record.METER_VALUE, [done])] * 3)
            done += 3
        ledger.acknowledge(LOG, *ledger.head)
        if ledger._header.seq % 7 == 0:
            ledger = mounted(device, store)
            ledger.append(record.BOOT, [])
    assert max(device.erases) <= 1.1 * min(device.erases) + 3
    assert mounted(device, store).head[0] == ledger.head[0]
    return ledger.head[0]


def test_wraps():
    wraps(40)


def test_a_thousand_wraps():
    print("slots:", wraps(1000))


def test_nothing_counts_after_a_torn_slot():
    device, store, ledger = fresh(4)
    ledger.append(record.METER_VALUE, [1])
    at = 256 + 64 * ledger._index
    ledger.append_many([(record.METER_VALUE, [i]) for i in range(2, 5)])
    for i in range(64):
        device.data[at + i] &= 0x3C
    ledger = mounted(device, store)
    assert [r[2] for r in listed(ledger)] == [[1]] and ledger.head[0] == 1
    ledger.append(record.BOOT, [])
    assert [r[0] for r in listed(mounted(device, store))] == [1, 2]


def test_a_header_that_the_key_file_does_not_confirm_is_made_again():
    device, store, ledger = fresh(4)
    first = ledger._header.seq

    def cut(name, data):
        raise PowerCut

    store.hook = cut
    try:
        while True:
            ledger.append(record.METER_VALUE, [1])
    except PowerCut:
        store.hook = None
    ledger = mounted(device, store)
    assert ledger._header.seq == first
    erases = device.erases[1]
    ledger.append(record.BOOT, [])
    assert ledger._header.seq == first + 1 and device.erases[1] == erases + 1
    assert mounted(device, store).head == ledger.head


def test_a_page_that_only_looks_blank_is_not_used():
    device, store, ledger = fresh(4)
    ledger.append(record.METER_VALUE, [1])
    ledger = mounted(device, store)
    at = 256 + 64 * ledger._index
    device.weak = {0: {at + 100: 0x81}}  # left by a cut: mostly they read as ones
    device.used[(at + 96) // 16] = 1
    seqs = [ledger.append(record.BOOT, [i]) for i in range(3)]
    assert [r[0] for r in listed(mounted(device, store))][1:] == seqs
