"""Batches as a power cut leaves them: slots that were repeated in the sector after."""

from dataclasses import replace

import pytest
from charger import SITE

from chargekeep_tools import wire
from chargekeep_tools.reconcile.verify import LEDGER_TAMPERED, open_batch
from chargekeep_tools.sim.replica import METER_VALUE, Replica

_REPEATED = 0x20


def cut(repeated):
    """A replica whose last `repeated` slots before the cut are in the next sector as well."""
    replica = Replica(SITE, "cp-1")
    for register in range(20):
        replica.append(METER_VALUE, [register, 0])
    for index, at in enumerate(range(len(replica.slots) - repeated, len(replica.slots))):
        slot = replica.slots[at]
        short = bytes((slot.short[0] | _REPEATED,)) + slot.short[1:]
        replica.slots[at] = replace(slot, sector=2, index=index, short=short)
    for register in range(20, 30):
        replica.append(METER_VALUE, [register, 0])
    return replica


@pytest.mark.parametrize("repeated", [0, 1, 2, 12])
@pytest.mark.parametrize("after", [0, 12, 18])
def test_repeated_slots_keep_their_links(repeated, after):
    replica = cut(repeated)
    (data,) = replica.batches(after, most=40)
    batch = open_batch(data, replica.station)
    assert batch.links == b"".join(slot.link for slot in replica.slots[after:])


@pytest.mark.parametrize("repeated", [0, 2])
def test_a_changed_slot_is_not_in_the_chain(repeated):
    replica = cut(repeated)
    body = replica.body(0, 40)
    for run in body[13]:
        data = run[2]
        for at in (2, len(data) - 1):  # in the payload of the first slot, and of the last
            run[2] = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            with pytest.raises(wire.WireError) as caught:
                open_batch(wire.seal_batch(replica.key, body), replica.station)
            assert caught.value.code == LEDGER_TAMPERED
        run[2] = data
