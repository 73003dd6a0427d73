"""Whatever a station signs as a batch, nobody else waits for it."""

import hashlib

import cbor2
import pytest
from charger import SITE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reconcile_host import Host

from chargekeep_tools import wire
from chargekeep_tools.reconcile.verify import open_batch
from chargekeep_tools.reconcile.worker import Message
from chargekeep_tools.sim.replica import Replica

TAGS = (0, 1, 2, 3, 4, 5, 18, 28, 29, 30, 35, 36, 37, 43, 100, 258, 260, 261, 1004, 55799)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 9),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=20),
)
keys = st.one_of(st.integers(-2, 20), st.text(max_size=2), st.binary(max_size=2), st.none())
objects = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(cbor2.CBORTag, st.sampled_from(TAGS), inner),
    ),
    max_leaves=8,
)


def station(name):
    replica = Replica(SITE, name)
    replica.charge(100, tariff=(7, 1))
    return replica


BODY = station("cp-1").body(0, 3)


def bend(place, value):
    """A true batch but for one thing."""
    at, part = place
    if part is None:
        return BODY | {at: value}
    run = list(BODY[13][0])
    run[part] = value
    return BODY | {13: [run]}


places = st.one_of(
    st.tuples(st.sampled_from([2, 3, *range(10, 17)]), st.none()),
    st.tuples(st.just(13), st.integers(0, 3)),
)
bent = st.builds(bend, places, st.one_of(plain, objects))
signed = st.one_of(bent, bent, objects).map(cbor2.dumps)
COMMON = {"deadline": None, "suppress_health_check": [*HealthCheck]}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return Host(tmp_path_factory.mktemp("any"), "sqlite://")


def check(host, encoded):
    host.empty()
    bad, good = station("cp-1"), station("cp-2")
    host.chargers = {replica.name: replica for replica in (bad, good)}
    stations = {replica.name: replica.station for replica in (bad, good)}
    host.reconciler.stations.get = lambda _, name: stations.get(name)
    digest = hashlib.sha256(encoded).digest()
    data = wire.seal_sign1(wire.BATCH, bad.key, digest) + encoded
    # A row of them: the last names the one before, whose signature is not looked at then.
    last = wire.seal_batch(bad.key, bad.body(0, 3), data)
    sent = [(bad, data), (bad, data), (bad, last), *((good, d) for d in good.batches())]
    host.reconciler.take([Message(replica.log_topic, payload) for replica, payload in sent])
    host.reconciler.project()
    assert good.acknowledged == len(good.slots)
    try:
        open_batch(data, bad.station)
    except wire.WireError as error:
        assert error.code
    else:
        assert cbor2.loads(encoded).keys() >= BODY.keys()


@example(cbor2.dumps({1: 2, "a": 3}))
@example(cbor2.dumps({}))
@example(cbor2.dumps([1]))
@example(cbor2.dumps("x"))
@example(cbor2.dumps({1: cbor2.CBORTag(4, [2**62, 1])}))
@example(b"\xa1\xa0\x00")  # a map for a key
@example(b"\x81" * 5000)
@settings(max_examples=100, **COMMON)
@given(signed)
def test_a_batch_of_anything(host, encoded):
    check(host, encoded)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=5000, **COMMON)
@given(signed)
def test_much_of_anything(host, encoded):
    check(host, encoded)
