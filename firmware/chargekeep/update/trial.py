# Decides when new firmware has proven itself: not that it starts, but that it meters and records.
# Only then does the version floor rise, so that nothing older can be staged from then on.

from chargekeep import cbor, errors
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.update import slots
from chargekeep.update.slots import COUNTER


def _version():
    # Of the bundle in the running slot; 0 where the firmware is frozen or was copied by hand.
    try:
        with open(slots.running() + "/" + slots.MANIFEST, "rb") as f:
            return cbor.loads(cose.parse(f.read())[3])[1]
    except (OSError, ChargekeepError, KeyError, TypeError):
        return 0


class Trial:
    """Tell `passed` once a meter sample was accepted and a record is durable."""

    def __init__(self, ledger, health):
        self._ledger = ledger
        slot = slots.rolled_back()
        if slot:
            health.count(errors.UPDATE_ROLLED_BACK, "slot " + slot)
        if not slots.on_trial():
            self._raise_floor()

    def passed(self):
        """End the trial, if this is one."""
        if slots.on_trial():
            slots.confirm()
            self._raise_floor()

    def _raise_floor(self):
        version = _version()
        if version > self._ledger.counter(COUNTER):
            self._ledger.advance(COUNTER, version)
