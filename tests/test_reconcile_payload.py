"""Whatever a station signs as a record is stored, acknowledged, and stops nothing."""

import pytest
from charger import SITE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from postgres import Postgres
from reconcile_host import Host

from chargekeep_tools import wire
from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.payload import EVIDENCE, TX_STARTED, read
from chargekeep_tools.reconcile.schema import exceptions
from chargekeep_tools.sim.replica import Replica

REPLICA = Replica(SITE, "cp-1")
number = st.one_of(
    st.integers(0, 9),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**15, 2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53, -1]),
)
sealed = st.one_of(
    st.dictionaries(st.integers(2, 17), number, max_size=3),
    st.lists(number, max_size=18),
    st.fixed_dictionaries({k: st.one_of(number, st.none()) for k in (2, 3, *range(10, 18))}),
).map(lambda body: wire.seal_sign1(wire.EVIDENCE, REPLICA.key, body))
value = st.one_of(
    number, number, st.none(), st.booleans(), st.binary(max_size=20), st.text(max_size=5), sealed
)
true = st.sampled_from(
    [
        (2, [1, 1, 1, None, None, None, 0, 7, 1, 0, 0, 0, 1]),
        (2, [2, 1, 1, b"h" * 16, b"c" * 8, b"kid1", 50, 7, 1, 0, 0, 0, 1]),
        (3, [1, 1, 8, 20, 1]),
        (4, [1, 2, 10, 6, 50]),
        (4, [2, 2, 10, 6, 50]),
        (11, [50, 0, 3]),
    ]
)
bent = st.tuples(true, st.integers(0, 12), value).map(
    lambda t: (t[0][0], [t[2] if i == t[1] else v for i, v in enumerate(t[0][1])])
)
anything = st.tuples(st.integers(1, 31).filter(lambda kind: kind != 14), st.lists(value))
evidence = st.tuples(st.just(EVIDENCE), st.tuples(number, sealed).map(list))
records = st.lists(st.one_of(true, bent, bent, anything, evidence), max_size=12)
stamps = st.one_of(st.none(), st.tuples(number, number, number))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return Host(tmp_path_factory.mktemp("any"), "sqlite://")


@pytest.fixture(scope="module")
def postgres_host(tmp_path_factory):
    server = Postgres()
    host = Host(tmp_path_factory.mktemp("any"), server.url)
    yield host
    host.engine.dispose()
    server.close()


def check(host, records, stamp):
    host.empty()
    replica = Replica(SITE, "cp-1")
    host.chargers = {replica.name: replica}
    host.reconciler.stations.get = lambda *_: replica.station
    for kind, body in records:
        if len(wire.dumps(body)) < 500:
            replica.append(kind, body)
    if stamp:
        replica.time, replica.boot, replica.uptime = stamp
        replica.append(5, [1, 2])
    host.give(replica, *replica.batches())
    assert replica.acknowledged == len(replica.slots)
    assert "unprojected" not in host.kinds(), host.rows(exceptions)
    assert cli.status(host.engine)["logs"][0]["projected"] == len(replica.slots)


COMMON = {"deadline": None, "suppress_health_check": [*HealthCheck]}


def too_large(test):
    """What fits CBOR, but no column or no price."""
    begun, ended = [1, 1, 1, None, None, None, 0, 7, 1, 0, 0, 0, 1], [1, 2, 10, 6, 50]
    for at, high in ((0, 2**63 - 1), (1, 2**31), (6, -(2**62)), (7, 2**62), (9, 2**63 - 1)):
        body = [high if i == at else number for i, number in enumerate(begun)]
        test = example([(2, body), (4, ended)], None)(test)
    for at, high in ((1, 2**31), (3, 2**40), (4, 2**62)):
        body = [high if i == at else number for i, number in enumerate(ended)]
        test = example([(2, begun), (4, body)], (2**62, 1, 2**62))(test)
    return test


@too_large
@settings(max_examples=60, **COMMON)
@given(records, stamps)
def test_whatever_is_signed_stops_nothing(host, records, stamp):
    check(host, records, stamp)


@too_large
@settings(max_examples=40, **COMMON)
@given(records, stamps)
def test_nor_where_the_database_minds_types(postgres_host, records, stamp):
    check(postgres_host, records, stamp)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=3000, **COMMON)
@given(records, stamps)
def test_much_of_whatever_is_signed(postgres_host, records, stamp):
    check(postgres_host, records, stamp)


def test_older_firmware_ended_a_start_with_the_trigger():
    body = [1, 1, 1, None, None, None, 0, 7, 1, 0, 0, 0, 1]
    assert read(TX_STARTED, wire.dumps([None, 0, 1, 0, *body])) == ([None, 0, 1, 0], body)
    with pytest.raises(ValueError):
        read(TX_STARTED, wire.dumps([None, 0, 1, 0, *body[:-1]]))
