# What has been used of each token: how often, how much energy, how long. A use is durable before
# power flows, never forgotten and counted once for each transaction that the ledger has, over
# replug, reboot and power cut. Costs 34 bytes a token that has not expired yet, in RAM and in one
# file, written whole at each change.

import hashlib
import struct

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_NAME = "spent"
_RECORD = ">8sIHIIIII"  # cti, exp, uses, Wh and s of ended uses, tx id, Wh and s of that one
_SIZE = const(34)
_LOST = const(4)  # bytes of `lost_until` before the records
_CHECK = const(8)  # bytes of SHA-256 behind them
_CAPACITY = const(256)
_U32 = const(0xFFFFFFFF)
_U16 = const(0xFFFF)


class Spent:
    """Reads the table of `store`.

    `lost_until`: unix seconds up to which uses may have been forgotten, because a table was there
    and did not hold; a token that was valid before must not be accepted. 0: nothing was lost.
    """

    def __init__(self, store, timebase, capacity=_CAPACITY):
        self._store = store
        self._timebase = timebase
        self._capacity = capacity
        self.lost_until = 0
        self._table = b""
        data = store.read(_NAME)
        if data is None:
            return
        if len(data) % _SIZE == _LOST + _CHECK and data[-_CHECK:] == _check(data[:-_CHECK]):
            self.lost_until = int.from_bytes(data[:_LOST], "big")
            self._table = data[_LOST:-_CHECK]
            return
        self.lost_until = max(timebase.now() or 0, timebase.floor())
        if self.lost_until:
            self._write(b"")
        else:
            self.lost_until = _U32  # no token at all until a boot at which the time is known

    def __len__(self):
        return len(self._table) // _SIZE

    def totals(self, cti):
        """`(uses, Wh, seconds)` of the token so far."""
        at = self._find(cti)
        if at is None:
            return 0, 0, 0
        _, _, uses, wh, s, _, tx_wh, tx_s = struct.unpack_from(_RECORD, self._table, at)
        return uses, wh + tx_wh, s + tx_s

    def check(self, cti, use_count):
        """Raises TOKEN_REPLAYED where all `use_count` uses are gone and SPENT_FULL where there is
        no room for one more token."""
        if self.totals(cti)[0] >= min(use_count, _U16):
            raise ChargekeepError(errors.TOKEN_REPLAYED)
        if self._find(cti) is None:
            self._living()

    def begin(self, cti, exp, tx_id):
        """Count one use, for transaction `tx_id`: durable on return, once however often called.

        Raises SPENT_FULL where there is no room or flash fails.
        """
        at = self._find(cti)
        if at is None:
            uses = wh = s = 0
        else:
            _, _, uses, wh, s, last, tx_wh, tx_s = struct.unpack_from(_RECORD, self._table, at)
            if last == tx_id:
                return
            wh = min(wh + tx_wh, _U32)
            s = min(s + tx_s, _U32)
        self._put(at, struct.pack(_RECORD, cti, exp, min(uses + 1, _U16), wh, s, tx_id, 0, 0))

    def use(self, cti, tx_id, wh, s):
        """Transaction `tx_id` has taken `wh` and lasted `s` seconds so far; these never fall.

        False, and nothing done, where `tx_id` is not the token's newest transaction.
        """
        at = self._find(cti)
        if at is None:
            return False
        record = struct.unpack_from(_RECORD, self._table, at)
        if record[5] != tx_id:
            return False
        new = (min(max(wh, record[6]), _U32), min(max(s, record[7]), _U32))
        if new != record[6:]:
            self._put(at, struct.pack(_RECORD, *(record[:6] + new)))
        return True

    def reset(self):
        """Forget everything, what was lost included: an operator's decision."""
        self.lost_until = 0
        self._write(b"")

    def _find(self, cti):
        at = self._table.find(cti)
        while at % _SIZE and at > 0:  # by chance, across other fields
            at = self._table.find(cti, at + 1)
        return at if at >= 0 else None

    def _put(self, at, record):
        table = self._table
        if at is not None:
            self._write(table[:at] + record + table[at + _SIZE :])
            return
        self._write(self._living() + record)

    def _living(self):
        # The table without what has certainly expired, which is refused without being looked up
        table = self._table
        floor = self._timebase.floor()
        kept = [
            table[i : i + _SIZE]
            for i in range(0, len(table), _SIZE)
            if struct.unpack_from(">I", table, i + 8)[0] > floor
        ]
        if len(kept) >= self._capacity:
            raise ChargekeepError(errors.SPENT_FULL)
        return b"".join(kept)

    def _write(self, table):
        data = self.lost_until.to_bytes(_LOST, "big") + table
        try:
            self._store.write(_NAME, data + _check(data))
        except OSError as e:
            raise ChargekeepError(errors.SPENT_FULL, str(e))
        self._table = table


def _check(data):
    return hashlib.sha256(data).digest()[:_CHECK]
