# What a mounted ledger knows of itself. mount.py finds it out, ring.py goes on with it.

from micropython import const

from chargekeep.ledger import header
from chargekeep.ledger.reader import ACKNOWLEDGED, SLOTS, Reader
from chargekeep.ledger.record import SLOT

# The workspace of one slot: link key, link before, and the slot itself
KEY = const(16)
SLOT_AT = const(24)


class State(Reader):
    """See ring.py for the arguments."""

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
        self._note = 0  # seq of the last note of an acknowledgement
        self._news = 0  # seq of the last slot before the notes that end with it

    def _mount(self, read_only):
        from chargekeep.ledger.mount import mount

        self._seal, self._header = mount(self, read_only)

    def _noted(self, seq):
        # Slot `seq` notes an acknowledgement.
        if self._note != seq - 1:
            self._news = seq - 1
        self._note = seq

    @property
    def head(self):
        """`(seq, link)` of the last slot; seq 0 where there is none."""
        return self._next - 1, bytes(self._before)

    @property
    def acknowledged(self):
        """Seq of the last slot that the host has committed."""
        return self._acknowledged

    @property
    def backlog(self):
        """Slots that wait for the host; that its acknowledgement was noted is no news alone."""
        last = self._next - 1
        return max(0, (self._news if last == self._note else last) - self._acknowledged)

    @property
    def free_slots(self):
        """Slots that can be appended before the ring is full."""
        return max(0, SLOTS - self._index) + SLOTS * self._spare

    @property
    def erases(self):
        """How often the head sector was erased; the ring wears evenly."""
        return self._header.erases

    def counter(self, index):
        """Value of monotonic counter `index`, FORMATS.md section 4."""
        if index == ACKNOWLEDGED:
            return self._acknowledged
        return self._header.counters[index]
