# Finds a ledger on its flash: newest sector, counters, chain and the place to go on from. Reads
# 32 bytes of every sector, one sector whole and the slots of the last operation twice; where that
# one has no record of its own yet, the one before as well. Writes nothing, whatever it finds.

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.reader import ACKNOWLEDGED, SLOTS, Reader
from chargekeep.ledger.record import SLOT
from chargekeep.ledger.seal import SealKey, link_key

_PAGE_SLOTS = const(4)
_READS = const(16)

# The workspace of one slot: link key, link before, and the slot itself
KEY = const(16)
SLOT_AT = const(24)

_ONES = b"\xff" * header.SIZE


class Mount(Reader):
    """What mounting learns, for the ring to go on with. See ring.py for the arguments."""

    def __init__(self, device, key, store):
        super().__init__(device)
        self.writable = False
        self._secret = (key, store)
        self._seal = None
        self._header = None  # of the head sector
        self._bad = bytearray(32)  # bitmap of worn sectors
        self._page = bytearray(header.SIZE)
        self._work = bytearray(SLOT_AT + SLOT)
        self._before = memoryview(self._work)[KEY:SLOT_AT]
        self._version = header.VERSION  # of the sectors to come
        self._seed = 0  # of the head sector's checksums
        self._index = SLOTS  # next slot of the head sector
        self._proven = False  # the head sector's blank part was checked or erased by us
        self._pin = []  # slots of the last operation before the power cut
        self._spare = 0  # sectors that may be erased
        self._durable = self._acknowledged = 0

    @property
    def head(self):
        """`(seq, link)` of the last slot; seq 0 where there is none."""
        return self._next - 1, bytes(self._before)

    def _mount(self, read_only):
        unknown = self._survey()
        acknowledged = 0
        while True:
            self._head = self._newest()
            if self._head < 0:
                raise ChargekeepError(errors.LEDGER_FOREIGN, "no ledger")
            self.device.readblocks(self._head, self._page, 0)
            here = header.Header.unpack(self._page)
            if here:
                if here.version >> 4 != header.VERSION >> 4 or here.sectors != self.sectors:
                    raise ChargekeepError(errors.LEDGER_VERSION, "%#x" % here.version)
                self._header = here
                self._version = here.version
                self.writable = not read_only and here.version <= header.VERSION
                doubtful = self.writable and self._unlock(here.epoch, bool(unknown))
                self._replay()
                acknowledged = max(acknowledged, self._durable)
                if self._used or not doubtful or self._seq_before(here.seq) < 0:
                    break
            else:
                unknown.append(self._head)
            # Torn while it was opened, or whole but not known to be: that may fade again.
            self._seq[self._head] = 0
        if unknown:
            from chargekeep.ledger.rescue import rescue

            rescue(self, unknown)
            if self.writable:
                self._seal.go(self._header.epoch)  # raises where a newer sector is gone
        self._durable = self._acknowledged = max(acknowledged, self._durable)

    def _survey(self):
        # Which block is which sector. Returns the blocks that are neither ours nor blank.
        unknown = []
        data = bytearray(header.PREFIX)
        self.log_id = None
        for block in range(self.sectors):
            self.device.readblocks(block, data, 0)
            found = header.prefix(data)
            self._seq[block] = 0
            if not found:
                if data != _ONES[: header.PREFIX]:
                    unknown.append(block)
                continue
            if self.log_id not in (None, found[3]):
                raise ChargekeepError(errors.LEDGER_FOREIGN, "two ledgers")
            self.log_id = found[3]
            self._seq[block] = found[1]
            self._first[block] = found[2]
        return unknown

    def _newest(self):
        return self._seq_before(1 << 32)

    def _seq_before(self, seq):
        best = -1
        for block in range(self.sectors):
            if 0 < self._seq[block] < seq and (best < 0 or self._seq[block] > self._seq[best]):
                best = block
        return best

    def _unlock(self, epoch, lost):
        # Authenticates the header in `_page`. True where the key file does not know of it yet.
        # `lost`: the newest sector may be one whose header is damaged, and the key be its key.
        self._seal = SealKey(*self._secret)
        if lost and self._seal.epoch == epoch + 1:
            return False
        doubtful = self._seal.epoch < epoch
        self._turn_key(epoch)
        header.authentic(self._page, self._seal.key)
        return doubtful

    def _turn_key(self, epoch):
        self._seal.go(epoch)
        self._work[:KEY] = link_key(self._seal.key)

    def _replay(self):
        # Counters, chain and position from the head sector's slots. What a cut left may read
        # differently from one time to the next: then it is read again, until once it is the same.
        before = self._header.counters
        for left in range(_READS, 0, -1):
            self._header.counters = list(before)
            if self._replay_once(left > 1):
                return
        raise ChargekeepError(errors.LEDGER_CORRUPT, "the newest slots do not read twice the same")

    def _replay_once(self, patient):
        here = self._header
        self._bad = here.bad
        self._doubt = True
        self._held = {}
        counters = {}
        self._scan(self._head, counters)
        count = self._torn
        self._work[KEY:SLOT_AT] = here.link
        self._seed = record.slot_seed(self.log_id, here.seq)
        self._next = here.first
        operation = self._operation
        pins = {}
        held = {}
        for i in range(count):
            at = self._at[i]
            if at in counters:
                index, value = counters[at]
                here.counters[index] = max(here.counters[index], value)
            seq = self._of[i]
            pinned = seq >= operation or i == count - 1
            if pinned or seq < here.first:  # those stand in for the end of the sector before
                slot = self._fetch(self._head, at)
                if not slot:
                    return False
                held[self._head * 64 + at] = bytes(slot)
                if pinned:
                    pins[seq] = held[self._head * 64 + at]
        if count:
            last = self._of[count - 1]
            self._next = max(self._next, last + 1)
            self._work[KEY:SLOT_AT] = pins[last][record.LINK_AT : record.CRC_AT]
        if not count or operation < here.first:
            # Nothing new is sure to be in this sector, so the end of the one before may fade.
            before = self._seq_before(here.seq)
            used = self._used
            found = self._scan(before) if before >= 0 else 0
            for i in range(found):
                seq = self._of[i]
                if self._operation <= seq < here.first and seq not in pins:
                    slot = self._fetch(before, self._at[i])
                    if not slot:
                        return False
                    pins[seq] = held[before * 64 + self._at[i]] = bytes(slot)
            self._used = used
            if patient and before >= 0 and self._seq[before] == here.seq - 1:
                if here.first - 1 not in pins:
                    return False  # it was there when this sector was opened
        self._held = held
        self._pin = [pins[seq] for seq in sorted(pins)]
        self._settled = min(pins) - 1 if pins else self._next - 1
        self._durable = max(here.acknowledged, here.counters[ACKNOWLEDGED])
        # The operation that was cut may have touched the page after the last slot in use without
        # a trace, so that page is not used.
        self._index = (self._used // _PAGE_SLOTS + 1) * _PAGE_SLOTS
        self._proven = False
        return True
