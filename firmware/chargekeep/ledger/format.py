# Makes flash an empty ledger, once in the life of a log. Loaded for that only.

from hashlib import sha256

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header
from chargekeep.ledger.record import LINK
from chargekeep.ledger.seal import SealKey


def make(ledger, log_id, key, store, force):
    """See `Ledger.format`; `ledger` is not mounted."""
    if not force:
        _refuse_foreign(ledger, log_id)
    ledger.log_id = log_id
    ledger._header = header.Header(log_id, ledger.sectors)
    ledger._bad = ledger._header.bad
    # The first block comes last and gets the header: half a format is no ledger.
    good = sum([ledger._erase(block) for block in range(ledger.sectors - 1, -1, -1)])
    if good < 2:
        raise ChargekeepError(errors.LEDGER_ERASE, "%d good sectors" % good)
    if store:
        SealKey.create(key, store)
    ledger._seal = SealKey(key, store)
    ledger._begin(sha256(log_id).digest()[:LINK])


def _refuse_foreign(ledger, log_id):
    page = bytearray(header.PREFIX)
    for block in range(ledger.sectors):
        ledger.device.readblocks(block, page, 0)
        found = header.prefix(page)
        if found and found[3] != log_id:
            raise ChargekeepError(errors.LEDGER_FOREIGN, "block %d: another log" % block)
        if not found and not ledger._blank(block):
            raise ChargekeepError(errors.LEDGER_FOREIGN, "block %d" % block)
