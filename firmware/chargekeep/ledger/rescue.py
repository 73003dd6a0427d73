# Finds sectors again whose header is damaged by more than one bit: their slots still tell which
# sector they belong to. Loaded only when a scan met something that is neither blank nor ours.

from binascii import crc32

from micropython import const

from chargekeep.ledger import header, record
from chargekeep.ledger.mount import replay, turn_key
from chargekeep.ledger.reader import SLOTS

_TRIES = const(64)  # sector seqs


def alive(ledger, block, seq):
    """Does `block` hold a slot of sector `seq`?"""
    seed = record.slot_seed(ledger.log_id, seq)
    for index in range(SLOTS):
        ledger.device.readblocks(block, ledger._slot, header.SIZE + record.SLOT * index)
        if crc32(ledger._slot, seed ^ index) == record.RESIDUE:
            return True
    return False


def rescue(ledger, unknown):
    """Take up each block of `unknown` that is a sector; the newest goes on from the one before."""
    here = ledger._header
    present = set(ledger._seq)
    oldest = max(1, here.tail, here.seq - _TRIES)
    missing = [here.seq + 1]
    missing += [seq for seq in range(oldest, here.seq) if seq not in present]
    for block in unknown:
        for seq in missing:
            if alive(ledger, block, seq):
                missing.remove(seq)
                _adopt(ledger, block, seq)
                break


def _adopt(ledger, block, seq):
    here = ledger._header
    newest = seq == here.seq + 1
    before = here.seq if newest else 0
    ledger._seq[block] = seq
    near = ledger._next
    if not newest:
        for other in range(ledger.sectors):
            if before < ledger._seq[other] < seq:
                before, near = ledger._seq[other], ledger._first[other]
    ledger._first[block] = near
    count = ledger._scan(block)
    first = near
    for i in range(count):
        slot = ledger._fetch(block, ledger._at[i])
        if slot and not slot[2] & record.REPEATED:
            first = ledger._of[i]
            break
    ledger._first[block] = first
    if newest:
        new = header.Header(ledger.log_id, ledger.sectors)
        new.version = here.version
        new.seq = new.epoch = seq
        new.first = first
        new.erases, new.acknowledged, new.tail = here.erases, here.acknowledged, here.tail
        new.link = ledger.head[1]
        new.counters, new.bad = here.counters, here.bad
        ledger._header = new
        ledger._head = block
        if ledger.writable:
            turn_key(ledger, new.epoch)
        replay(ledger)
        ledger._index = SLOTS  # what lacks a header gets nothing new
