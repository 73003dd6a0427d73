# Reads the ring: which sectors are ours and in what order, which slots of a sector count, records
# and batches. Writes nothing. What was torn, superseded or damaged is never returned; a single
# flipped bit is put right and counted. Costs 12 bytes of heap a sector and about 1 kB.

from array import array

from micropython import const

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.record import BAD, BLANK, FIXED, GOOD, SLOT

ACKNOWLEDGED = const(11)  # the counter that holds the host's cursor
SLOTS = const(60)  # of a sector, after its header
MAX_SECTORS = const(256)
_HEADER = const(256)
_DAMAGE = const(64)
_READS = const(16)
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
        # What `_scan` finds
        self._at = bytearray(SLOTS)  # index of each slot that counts
        self._of = array("I", bytes(4 * SLOTS))  # its seq
        self._used = 0  # slots up to the last that is not blank
        self._torn = self._operation = 0
        self._doubt = False  # the head sector's last operation may have been cut
        self._frozen = SLOTS  # where it begins: from there on only `_held` counts
        self._held = {}  # its slots by 64 x block + index, as the mount read them

    def _load(self, block, index, seed):
        if self._held and block * 64 + index in self._held:
            self._slot[:] = self._held[block * 64 + index]
            return GOOD
        if self._doubt and block == self._head and index >= self._frozen:
            return BAD  # it did not count when the ring was mounted
        self.device.readblocks(block, self._slot, _HEADER + SLOT * index)
        kind = record.check(self._slot, seed ^ index)
        if kind == FIXED or kind == BAD:
            place = self._seq[block] * 64 + index
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
        seed = record.slot_seed(self.log_id, self._seq[block])
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
        for index in range(SLOTS):
            kind = self._load(block, index, seed)
            if kind == BLANK:
                good = False
                continue
            self._used = index + 1
            if kind == BAD:
                if torn < 0:
                    torn = whole
                good = False
                continue
            slot = self._slot
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

    def _after(self, sector):
        """The block of the lowest sector seq above `sector`, or -1."""
        best = -1
        for block in range(self.sectors):
            if self._seq[block] > sector and (best < 0 or self._seq[block] < self._seq[best]):
                best = block
        return best

    def _end(self, block):
        """The seq after the last record of `block`: the next sector begins with it."""
        following = self._after(self._seq[block])
        return self._next if following < 0 else self._first[following]

    def _holding(self, seq):
        """The block that begins nearest before `seq`, else the oldest, or -1."""
        best = -1
        for block in range(self.sectors):
            if self._seq[block] and self._first[block] <= seq:
                if best < 0 or self._seq[block] > self._seq[best]:
                    best = block
        return self._after(0) if best < 0 else best

    def _slots(self, after):
        """Yield `(block, index, seq, start)` of each slot that counts with a seq above `after`.

        `start` is true where the slot does not follow on from the one before (the first, or after
        damage). Appending between two steps is fine.
        """
        last = None
        block = self._holding(after + 1)
        while block >= 0:
            sector = self._seq[block]
            end = self._end(block)
            count = self._scan(block)
            at = bytes(memoryview(self._at)[:count])
            of = self._of[:count]
            following = self._after(sector)
            if following >= 0:
                end = self._repeated_from(following, end)
            if end - 1 <= self._durable and not self._complete(block, count, end):
                count = 0  # free, and an erase of it was cut: parts would tell half a story
            for i in range(count):
                seq = of[i]
                if seq <= after or seq >= end or (last is not None and seq <= last):
                    continue
                if self._seq[block] != sector:
                    break  # erased meanwhile
                yield block, at[i], seq, last is None or seq != last + 1
                last = seq
            block = self._after(sector)

    def _repeated_from(self, block, first):
        # The seq from which `block`, whose first new one is `first`, repeats the sector before:
        # those are the slots to read, the ones before may fade.
        seed = record.slot_seed(self.log_id, self._seq[block])
        sure = self._held if self._doubt and block == self._head else None
        seen = set()
        for index in range(SLOTS):
            if sure is not None and block * 64 + index not in sure:
                continue
            kind = self._load(block, index, seed)
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
        seed = record.slot_seed(self.log_id, self._seq[block])
        for _ in range(_READS if seq else 1):
            if self._load(block, index, seed) not in (BAD, BLANK):
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
        for other, at, found, _ in self._slots(seq - 2):
            slot = self._fetch(other, at)
            if slot and found == seq - 1:
                return bytes(slot[record.LINK_AT : record.CRC_AT])
            break
        page = bytearray(header.SIZE)
        self.device.readblocks(block, page, 0)
        found = header.Header.unpack(page)
        return found.link if found and found.first == seq else bytes(record.LINK)

    def batch(self, after_seq, max_bytes, cut=bytes):
        """The next records for the host after slot `after_seq`.

        `(first seq, last seq, link of the slot before, runs)` of whole records whose slots follow
        on without a gap; a run is `[sector seq, first slot index, slots, link of the last]`, its
        slots what `cut(slot)` keeps of each. At most `max_bytes` (at least one record); None where
        nothing more is to be sent. The last record before a power cut is withheld until the next
        append has settled it. Where the slot before is lost, the first run holds one slot.
        """
        if after_seq >= self._settled:
            return None
        runs = []
        size = first = last = place = 0
        before = None
        news = False
        pending = []  # slots of the record being read
        for block, index, seq, gap in self._slots(after_seq):
            if seq > self._settled or (gap and first):
                break
            slot = self._fetch(block, index, seq)
            if not first:
                if not slot or not slot[3] & record.FIRST:
                    continue
                slot = bytes(slot)
                first = seq
                before = self._link_before(block, index, seq)
            elif not slot:
                break
            link = bytes(slot[record.LINK_AT : record.CRC_AT])
            pending.append((self._seq[block], index, cut(slot), link))
            size += len(pending[-1][2]) + _RUN_OVERHEAD
            if not slot[3] & record.LAST:
                continue
            if runs and size > max_bytes:
                break
            news = news or not _silent(slot)
            for sector, at, kept, link in pending:
                alone = len(runs) == 1 and not any(before)
                if runs and sector == runs[-1][0] and at == place and not alone:
                    runs[-1][2].extend(kept)
                    runs[-1][3] = link
                    size -= _RUN_OVERHEAD
                else:
                    runs.append([sector, at, bytearray(kept), link])
                place = at + 1
            pending = []
            last = seq
        return (first, last, before, runs) if news else None


def _silent(slot):
    # That an acknowledgement was noted is no news: its batch would be acknowledged, and so on.
    if slot[2] & record.TYPE != record.COUNTER:
        return False
    return record.body(slot)[4] == ACKNOWLEDGED
