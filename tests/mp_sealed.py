from mptest import folder, raises

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.sealed import SECRETS, SealedStore
from chargekeep.store import Store

SECRET = b"unique id of a board"
TEXT = b"the device's seed and the password of the network, longer than a block"


def made():
    """The sealed store of a new directory, and the plain view of the same files."""
    root = folder()
    return SealedStore(root, SECRET), Store(root)


def test_what_was_sealed_opens_here():
    sealed, store = made()
    assert sealed.read("identity") is None
    for content in (b"", b"x", TEXT, bytes(range(256)) * 4):
        for name in SECRETS:
            sealed.write(name, content)
            assert sealed.read(name) == content
            assert SealedStore(store.root, SECRET).read(name) == content
            assert store.read(name) != content
    assert sealed.remove("identity") and sealed.read("identity") is None
    sealed.write("trust", TEXT)  # signed, no secret
    assert store.read("trust") == TEXT == sealed.read("trust")


def test_the_file_shows_nothing():
    sealed, store = made()
    seen = set()
    for _ in range(20):
        sealed.write("identity", TEXT)
        data = store.read("identity")
        assert len(data) == len(TEXT) + 28
        for at in range(len(TEXT) - 4):
            assert TEXT[at : at + 4] not in data
        seen.add(data)
    assert len(seen) == 20  # no nonce twice


def test_it_opens_nowhere_else_and_under_no_other_name():
    sealed, store = made()
    sealed.write("identity", TEXT)
    data = store.read("identity")
    other = SealedStore(store.root, b"another")
    raises(ChargekeepError, other.read, "identity", code=errors.SECRET)
    store.write("network", data)
    raises(ChargekeepError, sealed.read, "network", code=errors.SECRET)


def test_every_change_is_noticed():
    sealed, store = made()
    sealed.write("identity", TEXT)
    data = store.read("identity")
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        store.write("identity", changed)
        raises(ChargekeepError, sealed.read, "identity", code=errors.SECRET)
    for changed in (b"", data[:-1], data[:20], data + b"\0", TEXT):
        store.write("identity", changed)
        raises(ChargekeepError, sealed.read, "identity", code=errors.SECRET)
