# Decides when new firmware has proven itself: not that it starts, but that it meters and records.
# Only then does the version floor rise, so that nothing older can be staged from then on.

import hashlib

from chargekeep import cbor, errors
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.update import slots
from chargekeep.update.slots import COUNTER


def _version(data):
    # Of a manifest; 0 where the firmware is frozen or was copied by hand.
    try:
        return cbor.loads(cose.parse(data)[3])[1]
    except (ChargekeepError, KeyError, TypeError):
        return 0


def about(data, state, version=None):
    """What the status says of the bundle with the signed manifest `data`; None without one."""
    if not data:
        return None
    if version is None:
        version = _version(data)
    return {
        "bundle": hashlib.sha256(data).digest()[:4].hex(),
        "version": version,
        "state": state,
    }


class Trial:
    """Tell `passed` once a meter sample was accepted and a record is durable.

    `update` is what the status says of the newest bundle, as `about` makes it: `running`, `trial`,
    `rolled_back`, or what download.py sets. None where the firmware is frozen.
    """

    def __init__(self, ledger, health):
        self._ledger = ledger
        slot = slots.rolled_back()
        if slot:
            health.count(errors.UPDATE_ROLLED_BACK, "slot " + slot)
        self.pending = slots.on_trial()
        if self.pending:
            self.update = about(slots.installed(), "trial")
        else:
            self.update = about(slots.failed(), "rolled_back")
            self._confirmed()

    def passed(self):
        """End the trial, if this is one."""
        if self.pending:
            self._ledger.record_boot()
            slots.confirm()
            self.pending = False
            self.update = None
            self._confirmed()

    def _confirmed(self):
        self._ledger.migrate()
        data = slots.installed()
        self.update = self.update or about(data, "running")
        version = _version(data)
        if version > self._ledger.counter(COUNTER):
            self._ledger.advance(COUNTER, version)
