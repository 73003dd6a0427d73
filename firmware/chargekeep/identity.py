# Who this station is and the secrets it keeps: written once at commissioning, read at every
# boot. The device seed is made on the device and never leaves it.

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError

_FILE = "identity"
_KEYS = (
    ("site", 1, str),
    ("station", 2, str),
    ("evse_id", 3, int),
    ("root_key", 4, bytes),  # the operator's root public key, 32 bytes
    ("seed", 5, bytes),  # this device's Ed25519 seed, 32 bytes
    ("site_key", 6, bytes),  # keys the IdToken hashes, 32 bytes
    ("log_id", 7, bytes),  # 16 bytes
)
_LENGTHS = {"root_key": 32, "seed": 32, "site_key": 32, "log_id": 16}


class Identity:
    """Attributes: site, station (str), evse_id (int), root_key, seed, site_key, log_id (bytes)."""

    def __init__(self, **values):
        for name, _, kind in _KEYS:
            value = values.get(name)
            if not isinstance(value, kind) or (name in _LENGTHS and len(value) != _LENGTHS[name]):
                raise ChargekeepError(errors.SECRET, "identity: " + name)
            setattr(self, name, value)


def save(store, identity):
    store.write(_FILE, cbor.dumps({key: getattr(identity, name) for name, key, _ in _KEYS}))


def load(store):
    """The identity, or None on a board that was never commissioned. Raises SECRET when damaged."""
    data = store.read(_FILE)
    if data is None:
        return None
    try:
        values = cbor.loads(data)
        return Identity(**{name: values[key] for name, key, _ in _KEYS})
    except (ChargekeepError, TypeError, KeyError, IndexError) as e:
        raise ChargekeepError(errors.SECRET, "identity: %s" % e)
