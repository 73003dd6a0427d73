# also: cpython
from mptest import raises

from chargekeep import errors, identity
from chargekeep.errors import ChargekeepError


class MemoryStore(dict):
    def read(self, name):
        return self.get(name)

    def write(self, name, data):
        self[name] = data


def made():
    return identity.Identity(
        site="depot",
        station="CP-1",
        evse_id=1,
        root_key=bytes(range(32)),
        seed=bytes(32),
        site_key=b"k" * 32,
        log_id=b"l" * 16,
    )


def test_identity_survives_the_store():
    store = MemoryStore()
    assert identity.load(store) is None
    identity.save(store, made())
    again = identity.load(store)
    assert again.__dict__ == made().__dict__


def test_every_damaged_byte_is_refused_or_changes_nothing_but_a_value():
    store = MemoryStore()
    identity.save(store, made())
    good = store["identity"]
    for cut in range(len(good)):
        store["identity"] = good[:cut]
        raises(ChargekeepError, identity.load, store, code=errors.SECRET)
    store["identity"] = b"\x80"
    raises(ChargekeepError, identity.load, store, code=errors.SECRET)
