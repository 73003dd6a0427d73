# Makes room in a full ring that no host has read: takes a sector apart, copies what must stay to
# the head and erases the sector. Drops intermediate values only, every other one, and leaves a
# record that says so. Loaded when it is first needed; costs up to 5 kB of heap while it works.

from micropython import const

from chargekeep import cbor
from chargekeep.ledger import record
from chargekeep.ledger.reader import SLOTS
from chargekeep.ledger.record import PAYLOAD

_HALVED = (record.TX_UPDATED, record.METER_VALUE, record.BOOT)
_DROPPED = (record.COUNTER, record.HEAD)  # the next header holds the one, the chain the other
_WORTHWHILE = const(15)  # slots that a sector must yield
_GROUP = const(8)  # records moved at a time


class _Sieve:
    """Decides record by record, in order, what of a sector stays.

    The first, third, fifth ... intermediate record goes, as in OCPP 2.0.1 E04.FR.07, but never the
    last of its kind: it holds the newest register. `counts`: how many there are of each type.
    """

    def __init__(self, acknowledged, counts):
        self._acknowledged = acknowledged
        self._counts = counts
        self._met = {}
        self.dropped = 0

    def keeps(self, last_seq, kind):
        if last_seq <= self._acknowledged:
            return False  # the host has it
        kind &= record.TYPE
        if kind == record.THINNED:
            return False  # becomes part of the new one
        if kind in _HALVED:
            met = self._met[kind] = self._met.get(kind, 0) + 1
            if met & 1 == 0 or met == self._counts[kind]:
                return True
        elif kind not in _DROPPED:
            return True
        self.dropped += 1
        return False


def thin(ledger):
    """Free one sector; False where none would yield enough. Looks at each sector once a pass."""
    if ledger._thin_at < 0:
        if -ledger._thin_at == ledger._header.seq:
            return False  # nothing came since the last pass
        ledger._thin_at = 0
    while True:
        block = ledger._after(ledger._thin_at)
        if block < 0 or block == ledger._head:
            ledger._thin_at = -ledger._header.seq
            return False
        ledger._thin_at = ledger._seq[block]
        if not ledger._free(block) and _take(ledger, block):
            return True


def _records(ledger, block, end):
    # `(seq, last seq, type byte, payload)` of each whole record of one sector.
    count = ledger._scan(block)
    at = bytes(memoryview(ledger._at)[:count])
    of = ledger._of[:count]
    payload = None
    start = 0
    for i in range(count):
        if of[i] < ledger._first[block] or of[i] >= end:
            continue
        slot = ledger._fetch(block, at[i])
        if slot and slot[3] & record.FIRST:
            payload = b""
            start = of[i]
        elif not slot or payload is None or of[i] != of[i - 1] + 1:
            payload = None
            continue
        payload += slot[4 : 4 + (slot[3] & record.LENGTH)]
        if slot[3] & record.LAST:
            yield start, of[i], slot[2], payload
            payload = None


def _merged(ranges):
    # `[first seq, last seq, dropped]`, those that touch made one.
    merged = []
    for one in sorted(ranges):
        if merged and one[0] <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], one[1])
            merged[-1][2] += one[2]
        else:
            merged.append(one)
    return merged


def _take(ledger, block):
    end = ledger._end(block)
    counts = {}
    ranges = []
    for _, last_seq, kind, payload in _records(ledger, block, end):
        kind &= record.TYPE
        if last_seq > ledger.acknowledged:
            counts[kind] = counts.get(kind, 0) + 1
            if kind == record.THINNED:
                ranges.append(cbor.loads(payload)[4:])
    sieve = _Sieve(ledger.acknowledged, counts)
    slots = 0
    for _, last_seq, kind, payload in _records(ledger, block, end):
        if sieve.keeps(last_seq, kind):
            size = len(payload) + (0 if kind & record.MOVED else 4)
            slots += (size + PAYLOAD - 1) // PAYLOAD
    ranges.append([ledger._first[block], end - 1, sieve.dropped])
    ranges = _merged(ranges)
    slots += len(ranges) + (2 if ledger._boot else 0)
    if slots > SLOTS - _WORTHWHILE or slots > ledger.free_slots - len(ledger._pin):
        return False
    stamp = ledger._timebase.stamp()
    group = [(record.THINNED, cbor.dumps(stamp + one)) for one in ranges]
    sieve = _Sieve(ledger.acknowledged, counts)
    for seq, last_seq, kind, payload in _records(ledger, block, end):
        if sieve.keeps(last_seq, kind):
            if not kind & record.MOVED:
                payload = seq.to_bytes(4, "little") + payload
            group.append((kind & record.TYPE | record.MOVED, payload))
            if len(group) >= _GROUP:
                ledger._store(group, 0)
                group = []
    if group:
        ledger._store(group, 0)
    ledger._erase(block)
    ledger._count_spare()
    return True
