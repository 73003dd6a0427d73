# Finds a ledger on its flash: newest sector, counters, chain and the place to go on from. Reads
# 32 bytes of every sector, one sector whole and the slots of the last operation twice; where that
# one has no record of its own yet, the one before as well. Writes nothing, whatever it finds. Once
# a boot, so the charger gives its memory back (core.py).

from micropython import const

from chargekeep import borrow, errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.reader import ACKNOWLEDGED, SLOTS
from chargekeep.ledger.seal import SealKey, link_key
from chargekeep.ledger.state import KEY, SLOT_AT

_PAGE_SLOTS = const(4)
_READS = const(64)

_ONES = b"\xff" * header.SIZE


def mount(ledger, read_only):
    """Sets what state.py lists. Returns the seal key and the head sector's header."""
    unknown = _survey(ledger)
    acknowledged = 0
    while True:
        ledger._head = _newest(ledger)
        if ledger._head < 0:
            raise ChargekeepError(errors.LEDGER_FOREIGN, "no ledger")
        ledger.device.readblocks(ledger._head, ledger._page, 0)
        here = header.Header.unpack(ledger._page)
        if here:
            if here.version >> 4 != header.VERSION >> 4 or here.sectors != ledger.sectors:
                raise ChargekeepError(errors.LEDGER_VERSION, "%#x" % here.version)
            ledger._header = here
            ledger._version = here.version
            ledger.writable = not read_only and here.version <= header.VERSION
            doubtful = ledger.writable and _unlock(ledger, here.epoch, bool(unknown))
            replay(ledger)
            acknowledged = max(acknowledged, ledger._durable)
            if ledger._used or not doubtful or _seq_before(ledger, here.seq) < 0:
                break
        else:
            unknown.append(ledger._head)
        # Torn while it was opened, or whole but not known to be: that may fade again.
        ledger._seq[ledger._head] = 0
    if unknown:
        borrow("chargekeep.ledger.rescue").rescue(ledger, unknown)
        if ledger.writable:
            ledger._seal.go(ledger._header.epoch)  # raises where a newer sector is gone
    ledger._durable = ledger._acknowledged = max(acknowledged, ledger._durable)
    return ledger._seal, ledger._header


def _survey(ledger):
    # Which block is which sector. Returns the blocks that are neither ours nor blank.
    unknown = []
    data = bytearray(header.PREFIX)
    ledger.log_id = None
    ledger._seeded = 0
    for block in range(ledger.sectors):
        ledger.device.readblocks(block, data, 0)
        found = header.prefix(data)
        ledger._seq[block] = 0
        if not found:
            if data != _ONES[: header.PREFIX]:
                unknown.append(block)
            continue
        if ledger.log_id not in (None, found[3]):
            raise ChargekeepError(errors.LEDGER_FOREIGN, "two ledgers")
        ledger.log_id = found[3]
        ledger._seq[block] = found[1]
        ledger._first[block] = found[2]
    return unknown


def _newest(ledger):
    return _seq_before(ledger, 1 << 32)


def _seq_before(ledger, seq):
    best = -1
    for block in range(ledger.sectors):
        if 0 < ledger._seq[block] < seq and (best < 0 or ledger._seq[block] > ledger._seq[best]):
            best = block
    return best


def _unlock(ledger, epoch, lost):
    # Authenticates the header in `_page`. True where the key file does not know of it yet.
    # `lost`: the newest sector may be one whose header is damaged, and the key be its key.
    ledger._seal = SealKey(*ledger._secret)
    if lost and ledger._seal.epoch == epoch + 1:
        return False
    doubtful = ledger._seal.epoch < epoch
    turn_key(ledger, epoch)
    header.authentic(ledger._page, ledger._seal.key)
    return doubtful


def turn_key(ledger, epoch):
    ledger._seal.go(epoch)
    ledger._work[:KEY] = link_key(ledger._seal.key)


def replay(ledger):
    # Counters, chain and position from the head sector's slots. What a cut left may read
    # differently from one time to the next: then it is read again, until once it is the same.
    before = ledger._header.counters
    for left in range(_READS, 0, -1):
        ledger._header.counters = list(before)
        if _replay_once(ledger, left > 1):
            return
    raise ChargekeepError(errors.LEDGER_CORRUPT, "the newest slots do not read twice the same")


def _replay_once(ledger, patient):
    here = ledger._header
    ledger._bad = here.bad
    ledger._doubt = True
    ledger._held = {}
    ledger._frozen = SLOTS
    counters = {}
    ledger._scan(ledger._head, counters)
    count = ledger._torn
    ledger._work[KEY:SLOT_AT] = here.link
    ledger._seed = record.slot_seed(ledger.log_id, here.seq)
    ledger._next = here.first
    operation = ledger._operation
    pins = {}
    held = {}
    frozen = SLOTS if count else 0  # where the last operation begins, copies included
    for i in range(count):
        if ledger._of[i] >= operation or i == count - 1:
            frozen = min(frozen, ledger._at[i])
    for i in range(count):
        at = ledger._at[i]
        seq = ledger._of[i]
        if at in counters:
            index, value = counters[at]
            here.counters[index] = max(here.counters[index], value)
            if index == ACKNOWLEDGED:
                ledger._noted(seq)
        pinned = seq >= operation or i == count - 1
        if (
            pinned or at >= frozen or seq < here.first
        ):  # those stand in for the end of the sector before
            slot = ledger._fetch(ledger._head, at)
            if not slot:
                return False
            held[ledger._head * 64 + at] = bytes(slot)
            if pinned:
                pins[seq] = held[ledger._head * 64 + at]
    if count:
        last = ledger._of[count - 1]
        ledger._next = max(ledger._next, last + 1)
        ledger._work[KEY:SLOT_AT] = pins[last][record.LINK_AT : record.CRC_AT]
    if not count or operation < here.first:
        # Nothing new is sure to be in this sector, so the end of the one before may fade.
        before = _seq_before(ledger, here.seq)
        used = ledger._used
        found = ledger._scan(before) if before >= 0 else 0
        for i in range(found):
            seq = ledger._of[i]
            if ledger._operation <= seq < here.first and seq not in pins:
                slot = ledger._fetch(before, ledger._at[i])
                if not slot:
                    return False
                pins[seq] = held[before * 64 + ledger._at[i]] = bytes(slot)
        ledger._used = used
        if patient and before >= 0 and ledger._seq[before] == here.seq - 1:
            there = [seq for seq in pins if seq < here.first]
            if not there or here.first - min(there) != len(there):
                return False  # all of it was there when this sector was opened
    ledger._held = held
    ledger._frozen = frozen
    ledger._pin = [pins[seq] for seq in sorted(pins)]
    ledger._settled = min(pins) - 1 if pins else ledger._next - 1
    ledger._durable = max(here.acknowledged, here.counters[ACKNOWLEDGED])
    # The operation that was cut may have touched the page after the last slot in use without
    # a trace, so that page is not used.
    ledger._index = (ledger._used // _PAGE_SLOTS + 1) * _PAGE_SLOTS
    ledger._proven = False
    return True
