# Who this station is and the secrets it keeps: written once at commissioning, read at every
# boot. The device seed is made on the device and never leaves it.

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError

_FILE = "identity"


class Identity:
    """Raises SECRET unless site and station are str, evse_id is int, and the rest bytes."""

    def __init__(self, site, station, evse_id, root_key, seed, site_key, log_id):
        self.site = site
        self.station = station
        self.evse_id = evse_id
        self.root_key = root_key  # the operator's root public key, 32 bytes
        self.seed = seed  # this device's Ed25519 seed, 32 bytes
        self.site_key = site_key  # keys the IdToken hashes, 32 bytes
        self.log_id = log_id  # 16 bytes
        if type(site) is not str or type(station) is not str or type(evse_id) is not int:
            raise ChargekeepError(errors.SECRET, "identity: form")
        for secret, size in ((root_key, 32), (seed, 32), (site_key, 32), (log_id, 16)):
            if type(secret) is not bytes or len(secret) != size:
                raise ChargekeepError(errors.SECRET, "identity: key")


def save(store, identity):
    """Keep `identity`, durable on return."""
    me = identity
    fields = (me.site, me.station, me.evse_id, me.root_key, me.seed, me.site_key, me.log_id)
    store.write(_FILE, cbor.dumps({i + 1: fields[i] for i in range(len(fields))}))


def load(store):
    """The identity, or None on a board that was never commissioned. Raises SECRET when damaged."""
    data = store.read(_FILE)
    if data is None:
        return None
    try:
        fields = cbor.loads(data)
        return Identity(*[fields[i] for i in range(1, 8)])
    except (ChargekeepError, TypeError, KeyError, IndexError) as e:
        raise ChargekeepError(errors.SECRET, "identity: %s" % e)
