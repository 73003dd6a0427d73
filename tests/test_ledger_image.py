"""The verifier of flash images: sound ones pass, tampered ones are caught by the right check."""

import asyncio
import random
import struct
import zlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nor_sim import OUTCOMES, Clock, MemoryStore, NorSim, PowerCut

from chargekeep.ledger.ring import Ledger
from chargekeep_tools import wire
from chargekeep_tools.log import slots
from chargekeep_tools.log.image import verify_image

LOG = bytes(range(16))
KEY = b"k" * 32
KEYS = slots.Keys(KEY)
STATION = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = wire.public_bytes(STATION)


async def sign(message: bytes) -> bytes:
    return STATION.sign(message)


class Log:
    def __init__(self, sectors: int = 6, count: int = 150):
        self.device = NorSim(sectors)
        self.store = MemoryStore()
        Ledger.format(self.device, LOG, KEY, self.store)
        self.mount()
        self.count = 0
        self.add(count)

    def mount(self):
        self.ledger = Ledger(self.device, None, Clock(), self.store)
        self.ledger.mount()

    def add(self, count: int):
        for _ in range(count):
            self.count += 1
            self.ledger.append(5, [self.count, b"x" * (self.count % 60)])
            if self.count % 37 == 0:
                asyncio.run(self.ledger.append_head(sign))
            if self.count % 41 == 0:
                self.ledger.advance(3, self.count)

    @property
    def image(self) -> bytes:
        return bytes(self.device.data)

    @property
    def anchor(self):
        return self.ledger.head


def check(image: bytes, anchor=None, keys: slots.Keys | None = KEYS):
    return verify_image(image, keys=keys, anchor=anchor, log_id=LOG, public_key=PUBLIC)


def reasons(image: bytes, anchor=None) -> set[str]:
    return {p.reason for p in check(image, anchor).problems}


@pytest.fixture(scope="module")
def log():
    return Log()


def block_of(image: bytes, seq: int) -> int:
    for block in range(len(image) // slots.SECTOR):
        header = slots.parse_header(image[block * slots.SECTOR :][: slots.HEADER])
        if header and header.seq == seq:
            return block
    raise LookupError


def edit(image: bytes, sector: int, change: Callable[[bytearray], None]) -> bytes:
    at = block_of(image, sector) * slots.SECTOR
    data = bytearray(image[at : at + slots.SECTOR])
    change(data)
    return image[:at] + bytes(data) + image[at + slots.SECTOR :]


def forge_slot(
    data: bytearray, sector: int, index: int, payload: bytes | None, key=None, link=b""
):
    """Give slot `index` a payload, and the checksum (and with a key the link) it then needs."""
    at = slots.HEADER + index * slots.SLOT
    if payload is not None:
        data[at + 4 : at + 4 + len(payload)] = payload
    if key is not None:
        slot = slots.Slot(sector, index, 1, bytes(data[at : at + slots.SLOT]))
        data[at + 52 : at + 60] = slot.expected_link(key, link)
    crc = zlib.crc32(data[at : at + 60], slots.slot_seed(LOG, sector) ^ index)
    data[at + 60 : at + 64] = struct.pack("<I", crc)


def forge_header(data: bytearray, key: bytes, **fields: bytes):
    places = {"first": 8, "tail": 44, "epoch": 48, "link": 56, "close": 160}
    for name, value in fields.items():
        data[places[name] : places[name] + len(value)] = value
    data[28:32] = struct.pack("<I", zlib.crc32(data[:28]))
    data[220:252] = slots.hmac.digest(key, bytes(data[:220]), "sha256")
    data[252:256] = struct.pack("<I", zlib.crc32(data[:252]))


def test_sound_images_pass(log):
    report = check(log.image, log.anchor)
    assert report.ok, report.problems
    assert [r.body[0] for r in report.records if r.type == 5] == list(range(1, log.count + 1))
    assert (report.head_seq, report.head_link) == log.anchor
    assert report.signed_seq > 0 and not report.notes and report.sealed
    # Without a key and an anchor there is less to say, but nothing wrong
    assert check(log.image, keys=None).ok


def test_sound_images_pass_after_wraps_acknowledgements_and_restarts():
    chance = random.Random(1)
    log = Log(6, 10)
    for _ in range(60):
        log.add(chance.randrange(1, 20))
        if chance.random() < 0.5:
            log.ledger.acknowledge(LOG, *log.ledger.head)
        if chance.random() < 0.3:
            log.ledger.maintain()
        if chance.random() < 0.3:
            log.mount()
            assert check(log.image, log.anchor).ok, check(log.image, log.anchor).problems
        assert check(log.image, log.anchor).ok, check(log.image, log.anchor).problems


def test_a_cut_erase_is_no_damage():
    log = Log(6, 10)
    images = []

    def cut(block, offset, data):
        if data is None:
            for seed, outcome in enumerate(OUTCOMES * 4):
                device = log.device.copy(seed + 1)
                device.cut(block, offset, data, outcome)
                images.append((bytes(device.data), log.anchor))

    for _ in range(60):
        log.add(10)
        log.ledger.acknowledge(LOG, *log.ledger.head)
        log.device.hook = cut
        log.ledger.maintain()
        log.device.hook = None
    assert len(images) > 300
    for image, anchor in images:
        report = check(image, anchor)
        assert report.ok, report.problems
        device = NorSim(6)
        device.data[:] = image
        ledger = Ledger(device, None, Clock(), log.store)
        ledger.mount(read_only=True)
        assert [r.seq for r in report.records] == [r[0] for r in ledger.records()]


def test_thinned_logs_pass_and_say_what_is_gone():
    log = Log(6, 20)
    log.add(600)
    report = check(log.image, log.anchor)
    assert report.ok, report.problems
    thinned = [r for r in report.records if r.type == 13]
    assert thinned and [r for r in report.records if r.moved_from]
    # The record that explains the gap gone too: caught
    image = log.image
    for r in thinned[:1]:
        for sector in report.sectors:
            for slot in sector.slots:
                if slot.seq == r.seq:

                    def blank(data, at=slots.HEADER + slot.index * slots.SLOT):
                        data[at : at + slots.SLOT] = b"\xff" * slots.SLOT

                    image = edit(image, sector.seq, blank)
    assert "missing" in reasons(image)


def test_what_two_cuts_left_is_no_gap():
    log = Log(6, 0)
    log.ledger.append_many([(5, [i]) for i in range(6)])
    at = slots.HEADER + 8 * slots.SLOT  # the second of two programs, torn at its start
    for i in range(slots.SLOT):
        log.device.data[at + i] &= 0x3C
    log.mount()
    log.device.cut_in = 1
    with pytest.raises(PowerCut):
        log.add(1)
    log.device.cut_in = -1
    log.mount()
    report = check(log.image, log.anchor)
    assert report.ok, report.problems
    assert [r.seq for r in report.records] == [1, 2, 3, 4] and report.head_seq == 4
    log.add(1)
    assert check(log.image, log.anchor).ok


def test_an_edited_record(log):
    def simple(data):
        data[slots.HEADER + 5 * slots.SLOT + 20] ^= 0xFF

    assert "missing" in reasons(edit(log.image, 2, simple))
    # with a fresh checksum
    changed = edit(log.image, 2, lambda data: forge_slot(data, 2, 5, b"\x85"))
    before = check(log.image).sectors[1].slots[5]
    payload = bytes([*before.payload[:-1], before.payload[-1] ^ 1])
    changed = edit(log.image, 2, lambda data: forge_slot(data, 2, 5, payload))
    assert "link" in reasons(changed)


def test_a_relinked_tail_without_the_key(log):
    def relink(data):
        link = check(log.image).sectors[1].slots[4].link
        for index in range(5, slots.SLOTS):
            forge_slot(data, 2, index, None, b"guess" * 3 + b"!", link)
            at = slots.HEADER + index * slots.SLOT
            link = bytes(data[at + 52 : at + 60])

    assert "link" in reasons(edit(log.image, 2, relink))


def test_deleted_slots_and_sectors(log):
    def remove(data):
        at = slots.HEADER + 7 * slots.SLOT
        data[at : at + slots.SLOT] = b"\xff" * slots.SLOT

    assert "missing" in reasons(edit(log.image, 2, remove))

    def erase(data):
        data[:] = b"\xff" * slots.SECTOR

    for sector in (1, 2, 3):
        assert "missing" in reasons(edit(log.image, sector, erase)), sector


def test_reordered_and_replayed_slots(log):
    def swap(data):
        a, b = slots.HEADER + 3 * 64, slots.HEADER + 4 * 64
        data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]

    assert reasons(edit(log.image, 2, swap))
    old = log.image
    other = Log(6, 140)
    at = block_of(old, 3) * slots.SECTOR
    # a sector of an earlier time, or of a log that went another way
    replayed = old[:at] + other.image[at : at + slots.SECTOR] + old[at + slots.SECTOR :]
    assert replayed == old or reasons(replayed) or check(replayed).records != check(old).records
    second = Log(6, 20)
    second.ledger.append(9, [1, 1, "another history"])
    second.add(130)
    mixed = old[: slots.SECTOR] + second.image[slots.SECTOR :]
    assert reasons(mixed)


def test_an_old_image_is_caught_by_the_anchor_only():
    """A whole image put back: true in itself, so only what the host has seen since tells."""
    log = Log(6, 100)
    old = log.image
    log.add(10)
    assert not reasons(old)
    assert reasons(old, log.anchor) == {"anchor"}


def test_truncation_of_an_unseen_tail_is_caught_by_the_anchor_only(log):
    """The limit that the format states: the open sector's last records, seen by no one."""
    sector = check(log.image).sectors[-1]

    def cut(data):
        for slot in sector.slots[-1:]:
            at = slots.HEADER + slot.index * slots.SLOT
            data[at : at + slots.SLOT] = b"\xff" * slots.SLOT

    shorter = edit(log.image, sector.seq, cut)
    report = check(shorter)
    assert not [p for p in report.problems if p.reason != "record"]
    assert "anchor" in reasons(shorter, log.anchor)


def test_hiding_the_newest_records_of_a_closed_sector(log):
    """CVE-2023-31438 (journald): cut off the end of a sealed log and go on as if nothing was.

    The thief has today's key, of the newest sector, and can seal new headers with it; the sector
    before was closed under a key that is forgotten.
    """
    sectors = check(log.image).sectors
    last, closed = sectors[-1], sectors[-2]
    assert last.header

    def cut(data):
        for slot in closed.slots[-4:]:
            at = slots.HEADER + slot.index * slots.SLOT
            data[at : at + slots.SLOT] = b"\xff" * slots.SLOT

    new_end = closed.slots[-5]
    first = struct.pack("<I", new_end.seq + 1)
    stolen = KEYS.at(last.seq)

    def reseal(data):
        close = slots.hmac.digest(stolen, b"close" + struct.pack("<I", new_end.seq), "sha256")
        forge_header(data, stolen, first=first, link=new_end.link, close=close)
        data[slots.HEADER :] = b"\xff" * (slots.SECTOR - slots.HEADER)

    image = edit(edit(log.image, closed.seq, cut), last.seq, reseal)
    assert "seal" in reasons(image)

    # the old close seal does not fit either
    def keep_seal(data):
        forge_header(data, stolen, first=first, link=new_end.link)

    assert "seal" in reasons(edit(edit(log.image, closed.seq, cut), last.seq, keep_seal))


def test_sealing_the_past_with_a_newer_key(log):
    """CVE-2023-31439 (journald): change an old sector, seal it with the key of a later epoch."""
    newest = check(log.image).sectors[-1].seq
    stolen = KEYS.at(newest)

    def rewrite(data, epoch):
        link = LOG and slots.parse_header(bytes(data[: slots.HEADER])).link
        key = slots.hmac.digest(stolen, b"link", "sha256")[:16]
        for index in range(slots.SLOTS):
            forge_slot(data, 2, index, None, key, link)
            at = slots.HEADER + index * slots.SLOT
            link = bytes(data[at + 52 : at + 60])
        forge_header(data, stolen, epoch=struct.pack("<I", epoch))

    assert {"seal", "link"} <= reasons(edit(log.image, 2, lambda data: rewrite(data, 2)))
    assert "epoch" in reasons(edit(log.image, 2, lambda data: rewrite(data, newest)))


def test_a_forged_head_signature(log):
    report = check(log.image)
    head = next(r for r in report.records if r.type == 12)
    other = verify_image(log.image, keys=KEYS, public_key=wire.public_bytes(
        Ed25519PrivateKey.from_private_bytes(b"x" * 32)))  # fmt: skip
    assert {p.reason for p in other.problems} == {"signature"}
    assert report.signed_seq >= head.body[0]


def test_another_key_another_log_and_foreign_flash(log):
    assert "seal" in {p.reason for p in check(log.image, keys=slots.Keys(b"x" * 32)).problems}
    assert verify_image(log.image, log_id=bytes(16)).problems
    chance = random.Random(3)
    for image in (b"", b"\xff" * 8192, bytes(8192), chance.randbytes(12288), b"CKL" * 4096):
        assert {p.reason for p in verify_image(image).problems} == {"foreign"}


def mutate(image: bytes, chance: random.Random) -> bytes:
    data = bytearray(image)
    sector = chance.randrange(len(image) // slots.SECTOR) * slots.SECTOR
    slot = sector + slots.HEADER + chance.randrange(slots.SLOTS) * slots.SLOT
    match chance.randrange(9):
        case 0:  # bits
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 1:  # a byte of a slot, with its checksum made good
            data[slot + chance.randrange(60)] ^= 1 + chance.randrange(255)
            fix_slot(data, slot)
        case 2:  # a slot on another
            other = slot - sector + chance.randrange(len(image) // slots.SECTOR) * slots.SECTOR
            data[slot : slot + 64] = data[other : other + 64]
            fix_slot(data, slot)
        case 3:  # a slot removed
            data[slot : slot + 64] = chance.choice((b"\xff", b"\0")) * 64
        case 4:  # a sector removed
            data[sector : sector + 4096] = chance.choice((b"\xff", b"\0")) * 4096
        case 5:  # a sector on another
            other = chance.randrange(len(image) // slots.SECTOR) * slots.SECTOR
            data[sector : sector + 4096] = data[other : other + 4096]
        case 6:  # a header field, with its checksums made good
            data[sector + chance.randrange(220)] ^= 1 + chance.randrange(255)
            data[sector + 28 : sector + 32] = struct.pack("<I", zlib.crc32(data[sector:][:28]))
            crc = struct.pack("<I", zlib.crc32(data[sector:][:252]))
            data[sector + 252 : sector + 256] = crc
        case 7:  # the rest of a sector cut off
            data[slot : sector + 4096] = b"\xff" * (sector + 4096 - slot)
        case 8:  # two slots change places
            other = sector + slots.HEADER + chance.randrange(slots.SLOTS) * slots.SLOT
            data[slot : slot + 64], data[other : other + 64] = (
                data[other : other + 64],
                data[slot : slot + 64],
            )
            fix_slot(data, slot)
            fix_slot(data, other)
    return bytes(data)


def fix_slot(data: bytearray, at: int) -> None:
    sector = at // slots.SECTOR * slots.SECTOR
    (seq,) = struct.unpack_from("<I", data, sector + 4)
    index = (at - sector - slots.HEADER) // slots.SLOT
    crc = zlib.crc32(data[at : at + 60], slots.slot_seed(LOG, seq) ^ index)
    data[at + 60 : at + 64] = struct.pack("<I", crc)


def mutations(count: int, seed: int) -> int:
    log = Log(4, 120)
    image, anchor = log.image, log.anchor
    truth = [(r.identity, r.payload) for r in check(image, anchor).records]
    chance = random.Random(seed)
    tried = caught = 0
    while tried < count:
        changed = mutate(image, chance)
        if changed == image:
            continue
        tried += 1
        report = check(changed, anchor)
        shown = [(r.identity, r.payload) for r in report.records]
        if report.problems or report.notes:
            caught += 1
            continue
        # Nothing was said, so nothing may have changed: bits of a slot that mean nothing here.
        assert shown == truth, "a change passed"
        assert (report.head_seq, report.head_link) == anchor
    return caught


def test_random_mutations():
    assert mutations(600, 1) > 580


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_mutations(seed):
    print(mutations(10_000, seed))
