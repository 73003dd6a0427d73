# Reads the ring: which sectors are ours and in what order, which slots of a sector count, records
# and batches. Writes nothing. What was torn, superseded or damaged is never returned; a single
# flipped bit is put right and counted. Costs 12 bytes of heap a sector and about 1.5 kB.

from array import array
from binascii import crc32

from micropython import const

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.record import BAD, BLANK, FIXED, GOOD, SLOT

ACKNOWLEDGED = const(11)  # the counter that holds the host's cursor
SLOTS = const(60)  # of a sector, after its header
MAX_SECTORS = const(256)
_HEADER = const(256)
_PAGE = const(256)
_PAGE_SLOTS = const(4)
_DAMAGE = const(64)
_READS = const(16)
_STEP = const(16)  # slots, of a step
_RUN_OVERHEAD = const(21)  # bytes of CBOR around the slots of a run


class Reader:
    """The readable side of a ledger on `device`.

    damage: slots met that fail their checksum, by 64 x sector seq + index; true where it was one
    bit and is put right. What a power cut tore is among them. At most 64 are kept.
    """

    def __init__(self, device):
        self.device = device
        self.sectors = device.ioctl(4, 0)
        if device.ioctl(5, 0) != 4096 or not 2 <= self.sectors <= MAX_SECTORS:
            raise ChargekeepError(errors.LEDGER_FOREIGN, "geometry")
        self.log_id = None
        self.damage = {}
        self._seq = array("I", bytes(4 * self.sectors))  # sector seq by block; 0: holds nothing
        self._first = array("I", bytes(4 * self.sectors))  # its first record seq
        self._head = -1  # block
        self._next = 1  # record seq
        self._durable = 0  # seq of the last slot that the host has, as flash says
        self._settled = 0  # what cannot be undone by a power cut any more
        self._slot = bytearray(SLOT)
        self._check = bytearray(_PAGE)
        self._kept = {}
        self._seeded = self._start = 0  # sector seq, and what its checksums start from
        # What `_scan` finds
        self._at = bytearray(SLOTS)  # index of each slot that counts
        self._of = array("I", bytes(4 * SLOTS))  # its seq
        self._used = 0  # slots up to the last that is not blank
        self._torn = self._operation = 0
        self._doubt = False  # the head sector's last operation may have been cut
        self._frozen = SLOTS  # where it begins: from there on only `_held` counts
        self._held = {}  # its slots by 64 x block + index, as the mount read them

    def _views(self, page, start, end):
        # Slots `start` to `end` of `_check` or `_page`; kept, so that less is allocated.
        key = (start << 3 | end) << 1 | (page is self._check)
        view = self._kept.get(key)
        if view is None:
            view = self._kept[key] = memoryview(page)[start * SLOT : end * SLOT]
        return view

    def _seed_of(self, sector):
        # What the checksums in a sector start from
        if sector != self._seeded:
            self._seeded = sector
            self._start = record.slot_seed(self.log_id, sector)
        return self._start

    def _load(self, block, index):
        if self._held and block * 64 + index in self._held:
            self._slot[:] = self._held[block * 64 + index]
            return GOOD
        if self._doubt and block == self._head and index >= self._frozen:
            return BAD  # it did not count when the ring was mounted
        sector = self._seq[block]
        self.device.readblocks(block, self._slot, _HEADER + SLOT * index)
        kind = record.check(self._slot, self._seed_of(sector) ^ index)
        if kind == FIXED or kind == BAD:
            place = sector * 64 + index
            if place not in self.damage and len(self.damage) < _DAMAGE:
                self.damage[place] = kind == FIXED
        return kind

    def _scan(self, block, counters=None):
        """Fill `_at` and `_of` with the slots of `block` that count, in order; how many.

        A slot supersedes all from its own seq on: that is how a restart after a power cut settles
        what the cut left. A repeated one only stands in; where a run of them begins, what was
        torn before it is gone. `_torn`: how many count if the last operation was cut, where
        nothing counts after the first bad slot, nor an incomplete record; `_operation`: the seq
        from which on that operation gave slots. `counters`: a dict that gets `(counter, value)`
        by slot index.
        """
        first = self._first[block]
        of, at = self._of, self._at
        held = self._held
        base = block * 64
        count = 0
        whole = 0  # slots before the record that is not complete
        torn = -1  # slots before the first bad one of this operation
        good = False  # the slot before this one
        again = -1  # its seq, where it was a repeated one
        self._used = 0
        self._operation = first
        seed = self._seed_of(self._seq[block])
        plain = not held and not self._doubt
        slots = [self._views(self._check, i, i + 1) for i in range(_PAGE_SLOTS)]
        for index in range(SLOTS):
            if not index % _PAGE_SLOTS:
                self.device.readblocks(block, self._check, _HEADER + SLOT * index)
            slot = slots[index % _PAGE_SLOTS]
            if plain and slot == record.ERASED:
                kind = BLANK
            elif (
                plain
                and record.LAST < slot[3] & 0xBF <= record.LAST + record.PAYLOAD
                and crc32(slot, seed ^ index) == record.RESIDUE
            ):
                kind = GOOD  # nearly all are
            else:
                kind = self._load(block, index)
                slot = self._slot
            if kind == BLANK:
                good = False
                continue
            self._used = index + 1
            if kind == BAD:
                if torn < 0:
                    torn = whole
                good = False
                continue
            low = slot[0] | slot[1] << 8
            seq = first + (((low - first) + 0x8000) & 0xFFFF) - 0x8000
            if not slot[2] & record.JOINED:
                if slot[2] & record.REPEATED and not 0 <= again < seq:
                    # A restart repeats what counted then; what the cut tore does not come back.
                    limit = whole if torn < 0 else min(whole, torn)
                    while count > limit and of[count - 1] >= max(seq, first):
                        if base + at[count - 1] in held:
                            break
                        count -= 1
                    whole = min(whole, count)
                torn = -1
                self._operation = seq
            elif not good and torn < 0:
                torn = whole
            good = True
            again = seq if slot[2] & record.REPEATED else -1
            if counters is not None and slot[2] & record.TYPE == record.COUNTER:
                counters[index] = record.body(slot)[4:]
            place = count
            while place and of[place - 1] >= seq:
                place -= 1
            if slot[2] & record.REPEATED and place < count:
                if of[place] == seq:
                    if base + at[place] not in held:
                        at[place] = index
                    continue
                for i in range(count, place, -1):
                    of[i], at[i] = of[i - 1], at[i - 1]
                count += 1
                whole += place < whole
            else:
                count = place + 1
                whole = min(whole, place)
                torn = min(torn, place)
            of[place], at[place] = seq, index
            if slot[3] & record.LAST:
                whole = count
        self._torn = whole if torn < 0 else min(whole, torn)
        return count

    def _after(self, sector, block=-1):
        """The block of the lowest sector seq above `sector`, or -1. `block`: where that is."""
        best = (block + 1) % self.sectors
        if self._seq[best] == sector + 1:
            return best  # nearly always
        best = -1
        for block in range(self.sectors):
            if self._seq[block] > sector and (best < 0 or self._seq[block] < self._seq[best]):
                best = block
        return best

    def _end(self, block):
        """The seq after the last record of `block`: the next sector begins with it."""
        following = self._after(self._seq[block], block)
        return self._next if following < 0 else self._first[following]

    def _holding(self, seq):
        """The block that begins nearest before `seq`, else the oldest, or -1."""
        best = -1
        for block in range(self.sectors):
            if self._seq[block] and self._first[block] <= seq:
                if best < 0 or self._seq[block] > self._seq[best]:
                    best = block
        return self._after(0) if best < 0 else best

    def _slots(self, after, steps=False):
        """Yield `[block, index, seq, start]` of each slot that counts with a seq above `after`.

        `start` is true where the slot does not follow on from the one before (the first, or after
        damage). The list is the same each time. Appending between two steps is fine. `steps`:
        yield [] as well, every 20 ms on an RP2040.
        """
        found = [0, 0, 0, True]
        last = -1
        block = self._holding(after + 1)
        while block >= 0:
            sector = self._seq[block]
            if steps:
                yield []
                if self._seq[block] != sector:  # erased meanwhile
                    block = self._after(sector)
                    continue
            end = self._end(block)
            count = self._scan(block)
            at = bytes(memoryview(self._at)[:count])
            of = self._of[:count]
            following = self._after(sector, block)
            if following >= 0:
                end = self._repeated_from(following, end)
            if end - 1 <= self._durable and not self._complete(block, count, end):
                count = 0  # free, and an erase of it was cut: parts would tell half a story
            for i in range(count):
                seq = of[i]
                if seq <= after or seq >= end or seq <= last:
                    continue
                if steps and not i % _STEP:
                    yield []
                if self._seq[block] != sector:
                    break  # erased meanwhile
                found[0] = block
                found[1] = at[i]
                found[2] = seq
                found[3] = seq != last + 1
                yield found
                last = seq
            block = self._after(sector, block)

    def _repeated_from(self, block, first):
        # The seq from which `block`, whose first new one is `first`, repeats the sector before:
        # those are the slots to read, the ones before may fade.
        sure = self._held if self._doubt and block == self._head else None
        seen = set()
        for index in range(SLOTS):
            if sure is not None and block * 64 + index not in sure:
                continue
            kind = self._load(block, index)
            if kind != BAD and kind != BLANK:
                back = (first - (self._slot[0] | self._slot[1] << 8)) & 0xFFFF
                if self._slot[2] & record.REPEATED and 0 < back < SLOTS:
                    seen.add(back)
                elif not self._slot[2] & record.JOINED:
                    break  # an operation that repeats none: the copies before it do not fade
        count = 0
        while count + 1 in seen:
            count += 1
        return first - count

    def _complete(self, block, count, end):
        seq = self._first[block]
        for i in range(count):
            if self._of[i] == seq:
                seq += 1
        return seq >= end

    def _fetch(self, block, index, seq=0):
        """The slot (64 bytes that the next call overwrites), or None where it reads bad now.

        `seq`: where the slot is a copy that fades, take another one of the same seq.
        """
        for _ in range(_READS if seq else 1):
            if self._load(block, index) not in (BAD, BLANK):
                return self._slot
            for i in range(self._scan(block) if seq else 0):
                if self._of[i] == seq:
                    index = self._at[i]
        return None

    def records(self, from_seq=1):
        """Yield `(seq, type, [time, quality, boot id, uptime, ...])` of whole records.

        `seq` is that of the record's first slot. A record that thinning moved yields the seq that
        it had before.
        """
        payload = None
        start = 0
        for block, index, seq, gap in self._slots(from_seq - 1):
            slot = self._fetch(block, index, seq)
            flags = slot[3] if slot else 0
            if flags & record.FIRST:
                payload = bytearray()
                start = seq
            elif not slot or payload is None or gap:
                payload = None  # its beginning is missing
                continue
            payload.extend(memoryview(slot)[4 : 4 + (flags & record.LENGTH)])
            if flags & record.LAST:
                kind = slot[2]
                if kind & record.MOVED:
                    start = int.from_bytes(payload[:4], "little")
                    payload = memoryview(payload)[4:]
                yield start, kind & record.TYPE, cbor.loads(payload)
                payload = None

    def _link_before(self, block, index, seq):
        # The stored link of the slot before, or what the sector's header says.
        if index:
            slot = self._fetch(block, index - 1)
            if slot and slot[0] | slot[1] << 8 == (seq - 1) & 0xFFFF:
                return bytes(slot[record.LINK_AT : record.CRC_AT])  # it counts, as ours does
        if seq == self._first[block]:
            self.device.readblocks(block, self._check, 0)
            found = header.Header.unpack(self._check)
            if found and found.first == seq:
                return found.link
        for other, at, found, _ in self._slots(seq - 2):
            slot = self._fetch(other, at)
            if slot and found == seq - 1:
                return bytes(slot[record.LINK_AT : record.CRC_AT])
            break
        return bytes(record.LINK)

    def batch(self, after_seq, max_bytes, short=False):
        """The next records for the host after slot `after_seq`: a generator that yields None while
        it works, each step at most 30 ms on an RP2040, and at last, where there are any,

        `(first seq, last seq, link of the slot before, runs)` of whole records whose slots follow
        on without a gap; a run is `[sector seq, first slot index, slots, link of the last]`, its
        slots whole or, `short`, what the host cannot work out of each: type, length and payload
        (FORMATS.md section 5). At most `max_bytes` (at least one record). The last record before
        a power cut is withheld until the next append has settled it. Where the slot before is
        lost, the first run holds one slot. Appending between two steps is fine.
        """
        settled = self._settled
        if after_seq >= settled:
            return
        slots = memoryview(bytearray(max(max_bytes, record.MAX_SLOTS * SLOT)))
        part = whole = memoryview(self._slot)
        its_link = whole[record.LINK_AT : record.CRC_AT]
        runs = []
        used = first = place = 0
        before = None
        last = end = count = 0  # seq, bytes, runs and link at the end of the last whole record
        link = None
        pending = 0  # slots since then
        news = False
        for found in self._slots(after_seq, True):
            if not found:
                yield
                continue
            block, index, seq, gap = found
            if seq > settled or (gap and first):
                break
            sector = self._seq[block]
            slot = self._fetch(block, index, seq)
            if not first:
                if not slot or not slot[3] & record.FIRST:
                    continue
                kept = bytes(slot)
                first = seq
                before = self._link_before(block, index, seq)
                yield
                slot[:] = kept
            elif not slot:
                break
            if short:
                part = whole[2 : 4 + (slot[3] & record.LENGTH)]
            start, used = used, used + len(part)
            if used > len(slots):
                break
            slots[start:used] = part
            alone = len(runs) == 1 and not any(before)
            if not runs or sector != runs[-1][0] or index != place or alone:
                runs.append([sector, index, start, None])
            runs[-1][3] = bytes(its_link)
            place = index + 1
            pending += 1
            if not slot[3] & record.LAST:
                continue
            if last and used + _RUN_OVERHEAD * (count + pending) > max_bytes:
                break
            news = news or not _silent(slot)
            last = seq
            end = used
            count = len(runs)
            link = runs[-1][3]
            pending = 0
        if news:
            del runs[count:]
            runs[-1][3] = link
            for run in reversed(runs):
                run[2], end = slots[run[2] : end], run[2]
            yield first, last, before, runs


def _silent(slot):
    # That an acknowledgement was noted is no news: its batch would be acknowledged, and so on.
    if slot[2] & record.TYPE != record.COUNTER:
        return False
    return record.body(slot)[4] == ACKNOWLEDGED
