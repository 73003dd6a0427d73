"""Whom a batch is believed to be from, and what a power cut leaves of its chain."""

from dataclasses import replace

import pytest
from charger import SITE

from chargekeep_tools import wire
from chargekeep_tools.reconcile import verify
from chargekeep_tools.reconcile.verify import LEDGER_TAMPERED, open_batch, open_batches
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


# One signature for the batches that a station sent in a row


class Known:
    """The stations of some replicas, as `Stations` gives them."""

    def __init__(self, *replicas):
        self.of = {(r.site, r.name): r.station for r in replicas}

    def get(self, site, name):
        return self.of.get((site, name))


def row(name="cp-1", most=4):
    replica = Replica(SITE, name)
    for register in range(15):
        replica.append(METER_VALUE, [register, 0])
    return replica, [(replica.log_topic, data) for data in replica.batches(most=most)]


def spoil(message, at=wire.BATCH_AT - 1):
    """A bit of it was changed: of the signature, if nothing else is said."""
    topic, data = message
    return topic, data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


@pytest.fixture
def looked_at(monkeypatch):
    """The signatures that were looked at."""
    found, original = [], verify.crypto_sign_open

    def counted(signed, key):
        found.append(signed[:64])
        return original(signed, key)

    monkeypatch.setattr(verify, "crypto_sign_open", counted)
    return found


def test_one_signature_answers_for_the_batches_that_lead_up_to_it(looked_at):
    replica, row_ = row()
    batches = open_batches(row_, Known(replica))
    assert b"".join(b.links for b in batches) == b"".join(s.link for s in replica.slots)
    assert [batch.data for batch in batches] == [data for _, data in row_]
    assert looked_at == [row_[-1][1][wire.BATCH_AT - 64 : wire.BATCH_AT]]


def test_what_is_sent_again_is_looked_at_again(looked_at):
    replica, row_ = row()
    assert all(open_batches([*row_, row_[0]], Known(replica)))
    assert len(looked_at) == 2


@pytest.mark.parametrize("at", range(4))
def test_a_batch_without_a_signature_needs_one_that_names_it(at):
    replica, row_ = row()
    row_[at] = spoil(row_[at])
    believed = [batch is not None for batch in open_batches(row_, Known(replica))]
    assert believed == [True, True, True, at != 3]
    assert open_batches([row_[at]], Known(replica)) == [None]
    assert open_batches(row_[::-1], Known(replica))[3 - at] is None  # names count backwards only


def test_a_false_batch_vouches_for_nobody():
    replica, row_ = row()
    believed = open_batches([spoil(row_[0]), spoil(row_[1])], Known(replica))
    assert believed == [None, None]


def test_a_changed_batch_has_another_name():
    replica, row_ = row()
    row_[1] = spoil(row_[1], -1)
    believed = [batch is not None for batch in open_batches(row_, Known(replica))]
    assert believed == [True, False, True, True]


def test_a_station_vouches_for_its_own_batches_only():
    one, (first, *_) = row()
    other, _ = row("cp-2")
    body = other.body(0, 4)
    named = other.log_topic, wire.seal_batch(other.key, body, first[1])
    assert open_batches([first, named], Known(one, other)).count(None) == 0
    assert open_batches([spoil(first), named], Known(one, other))[0] is None


def test_a_name_has_a_form():
    replica, _ = row()
    for name in (b"", bytes(15), bytes(17), 0, None, [1], "0123456789abcdef"):
        data = wire.seal_batch(replica.key, replica.body(0, 4) | {15: name})
        with pytest.raises(wire.WireError) as caught:
            open_batch(data, replica.station)
        assert caught.value.code == verify.OBJECT_FORM
        assert open_batches([(replica.log_topic, data)], Known(replica)) == [None]
