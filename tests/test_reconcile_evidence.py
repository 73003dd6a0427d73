"""What stations sign about their transactions, against what the reconciler bills."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from charger import SITE, Charger
from hypothesis import given, settings
from reconcile_host import Host
from station_sim import Decision, PowerCut
from test_conservation import COMMON, Teller, stories, told

from chargekeep.errors import ChargekeepError
from chargekeep.transaction import evidence
from chargekeep_tools import wire
from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.schema import (
    adjustments,
    bills,
    exceptions,
    transactions,
)
from chargekeep_tools.sim.replica import METER_SEGMENT, TX_ENDED, TX_STARTED, Replica

PRICED = (7, 1)
EVIDENCE = 15


def point(replica):
    quality = 3 if replica.time else 0
    return [replica.register, replica.time, quality, replica.boot, replica.uptime]


def charge(replica, wh=1000):
    """A transaction; what the station has to sign of it."""
    begin = point(replica)
    tx = replica.charge(wh, tariff=PRICED)
    found = {2: SITE, 3: replica.name, 10: tx, 11: 1, 12: b"h" * 16, 15: 6, 16: wh, 17: "SDM630"}
    return found | {13: begin, 14: point(replica)}


def attest(replica, body, key=None):
    replica.append(EVIDENCE, [body[10], wire.seal_sign1(wire.EVIDENCE, key or replica.key, body)])


def reconcile(host, replica):
    return [b["energy_wh"] for b in host.reconcile(replica)]


def details(host):
    return [row["detail"] for row in host.rows(exceptions) if row["kind"] == "evidence_mismatch"]


def test_true_evidence(host, replica):
    for wh in (1000, 0, 7):
        attest(replica, charge(replica, wh))
    assert reconcile(host, replica) == [1000, 0, 7] and host.kinds() == []
    assert all(row["evidence_seq"] for row in host.rows(transactions))


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({2: "elsewhere"}, "site elsewhere, not depot"),
        ({3: "cp-2\0"}, "station cp-2, not cp-1"),
        ({11: 2}, "EVSE 2, not 1"),
        ({12: None}, f"IdToken hash None, not {(b'h' * 16).hex()}"),
        ({13: [1, 0, 0, 1, 0]}, "register at the start 1, not 0"),
        ({14: [999, 0, 0, 1, 3600]}, "register at the end 999, not 1000"),
        ({16: 1001}, "Wh 1001, not 1000"),
        ({15: 1}, "stopped reason 1, not 6"),
        ({13: [0, 0, 0, 2, 0]}, "start boot 2 + 0 s, not boot 1 + 0 s"),
        ({14: [1000, 0, 0, 1, 3661]}, "end boot 1 + 3661 s, not boot 1 + 3600 s"),
        ({12: b"i" * 16, 16: 5}, f"IdToken hash {(b'i' * 16).hex()}, not"),
        ({16: -1}, "form: negative energy"),
        ({13: 1}, "form: "),
    ],
)
def test_evidence_mismatch(host, replica, change, detail):
    attest(replica, charge(replica) | change)
    assert reconcile(host, replica) == [1000] and host.kinds() == ["evidence_mismatch"]
    (found,) = host.rows(exceptions)
    assert found["detail"].startswith(detail) and found["tx"] == 1
    assert replica.acknowledged == len(replica.slots)
    host.reconciler.projector.rebuild()
    assert host.rows(exceptions) == [found]


def test_evidence_that_another_signed(host, replica):
    body = charge(replica)
    attest(replica, body, Replica(SITE, "cp-2").key)
    sealed = bytearray(wire.seal_sign1(wire.EVIDENCE, replica.key, body))
    sealed[-1] ^= 1
    replica.append(EVIDENCE, [1, bytes(sealed)])
    replica.append(EVIDENCE, [1, wire.seal_sign1(wire.HEAD, replica.key, body)])
    assert reconcile(host, replica) == [1000]
    assert [detail[:4] for detail in details(host)] == ["E113", "E114", "E112"]


def test_evidence_of_another_transaction(host, replica):
    replica.append(EVIDENCE, [1, wire.seal_sign1(wire.EVIDENCE, replica.key, charge(replica))])
    body = charge(replica)
    replica.append(EVIDENCE, [1, wire.seal_sign1(wire.EVIDENCE, replica.key, body)])
    assert reconcile(host, replica) == [1000, 1000]
    assert details(host)[0].startswith("transaction 2, not 1; ")


@pytest.mark.parametrize("body", [[], [1], ["1", b""], [1, None], [None, b""]])
def test_unreadable_evidence(host, replica, body):
    replica.append(EVIDENCE, body)
    charge(replica)
    assert reconcile(host, replica) == [1000] and host.kinds() == ["unreadable"]


def test_evidence_of_a_former_key(host, replica):
    attest(replica, charge(replica))
    former = replica.record()
    new = Replica(SITE, "cp-1", seed=1)
    host.home.save_station(new.record() | {"former": [former]})
    host.reconciler.stations.refresh()
    assert reconcile(host, replica) == [1000] and host.kinds() == []


def test_evidence_of_a_blocked_transaction(host, replica):
    begin = point(replica)
    replica.charge(10, tariff=(7, 99))
    body = {2: SITE, 3: "cp-1", 10: 1, 11: 1, 12: b"h" * 16, 15: 6, 16: 11, 17: ""}
    attest(replica, body | {13: begin, 14: point(replica)})
    assert reconcile(host, replica) == []
    assert host.kinds() == ["evidence_mismatch", "unknown_tariff"]


@pytest.mark.parametrize("wh", [1000, 1001])
@pytest.mark.parametrize("most", [1, 32])
def test_evidence_ahead_of_what_thinning_moved(host, replica, monkeypatch, wh, most):
    """Compared when the last of the transaction's records is there, in whatever batch that is."""
    attest(replica, charge(Replica(SITE, "cp-1")) | {16: wh})
    limits = [0, 0, 0, 1]
    begun = [1, 1, 1, b"h" * 16, None, None, 0, *PRICED, *limits]
    encode = wire.dumps
    for i, (kind, body) in enumerate([(TX_STARTED, begun), (TX_ENDED, [1, 2, 10, 6, 1000])]):
        with monkeypatch.context() as patched:
            patched.setattr(
                wire, "dumps", lambda body, i=i: bytes((40 + i, 0, 0, 0)) + encode(body)
            )
            replica.append(0x80 | kind, body)
        replica.sleep(3600)
    replica.update()  # of another transaction: nothing more was moved
    for batch in replica.batches(most=most):
        host.give(replica, batch)
    assert [b["energy_wh"] for b in cli.list_bills(host.engine)] == [1000]
    assert details(host) == ([] if wh == 1000 else ["Wh 1001, not 1000"])


@pytest.mark.parametrize(("updates", "every"), [(6, 3), (24, 1), (32, 2), (36, 3)])
def test_a_ring_that_was_full_is_billed_as_it_was(tmp_path, updates, every):
    """Thinning moves starts and meter segments behind the ends: no Wh is lost, nor billed twice.

    In whatever pieces it comes. What could not be told at first is resolved by itself.
    """
    charger = Charger("cp-1", blocks=8)
    taken = {}
    with suppress(ChargekeepError):  # until nothing more fits
        for i in range(60):
            begin, tx, wh = point(charger), charger.start(), 100 * i
            for k in range(updates):
                if k == updates // 2 and i % every == 0:
                    charger.ledger.append(METER_SEGMENT, [charger.register + 5, 0, 3])
                    wh, charger.register = wh + 5, 0
                charger.sleep(60)
                charger.update()
            charger.register += 100 * i
            charger.stop()
            taken[tx] = wh
            body = {2: SITE, 3: "cp-1", 10: tx, 11: 1, 12: b"h" * 16, 15: 6, 16: wh, 17: ""}
            attest(charger.ledger, body | {13: begin, 14: point(charger)}, charger.key)
    found = []
    for most in (1, 100):
        (tmp_path / str(most)).mkdir()
        host = Host(tmp_path / str(most))
        host.add(charger)
        host.deaf = True
        sent = charger.batches(after=0)
        for k in range(0, len(sent), most):
            host.give(charger, *sent[k : k + most])
        left = [row["kind"] for row in host.rows(exceptions) if row["resolved"] is None]
        assert "lost" in left and set(left) <= {"lost", "late"}
        total = Counter({row["tx"]: row["energy_wh"] for row in host.rows(bills)})
        total.update({row["tx"]: row["energy_wh"] for row in host.rows(adjustments)})
        assert total == Counter(taken)
        names = ("kind", "seq", "tx", "detail", "note")
        told = sorted(str([row[name] for name in names]) for row in host.rows(exceptions))
        found.append((host.rows(bills), host.rows(adjustments), told))
        host.reconciler.projector.rebuild()
        assert found[-1][:2] == (host.rows(bills), host.rows(adjustments))
    assert found[0] == found[1]


# The firmware's own evidence, whatever happens


class Attester(Teller):
    """Signs what there is to sign, now and then."""

    replica = Replica(SITE, "cp-1")

    def tell(self, event, wait):
        super().tell(event, wait)
        if len(self.world.ledger.log) % 2:  # not always at once
            self.attest()

    def finish(self):
        super().finish()
        self.attest()

    def attest(self):
        async def sign(message):
            return self.replica.key.sign(message)

        world, replica = self.world, self.replica
        kid = wire.kid(replica.public)
        try:
            machine = world.station.machine
            asyncio.run(evidence.attest(machine, world.ledger, SITE, "cp-1", "x", kid, sign))
        except ChargekeepError:
            pass
        except PowerCut:
            world.cut()
            self.boot()


@pytest.fixture(scope="module")
def any_host(tmp_path_factory):
    return Host(tmp_path_factory.mktemp("any"), "sqlite://")


def check_story(host, story):
    check_told(host, told(story, Attester))


def check_told(host, teller):
    replica = Replica(SITE, "cp-1")
    for kind, payload in teller.world.ledger.log:
        replica.time, _, replica.boot, replica.uptime, *body = payload
        if kind == TX_STARTED:
            body[7:9] = PRICED
        replica.append(kind, body)
    host.empty()
    host.chargers = {}
    host.reconciler.stations.get = lambda *_: replica.station
    host.give(replica, *replica.batches())
    energies = {row["tx"]: row["energy_wh"] for row in host.rows(bills)}
    assert energies == teller.energies()
    assert details(host) == []


def test_a_meter_that_is_exchanged_before_the_evidence_is_signed(any_host):
    teller = Attester()
    teller.run(3)
    machine = teller.world.station.machine
    machine.start(Decision())
    teller.run(60)
    machine.stop()
    teller.run(10)
    teller.world.meter.wh = 90_000
    teller.run(60)
    assert teller.world.bodies(METER_SEGMENT) and machine.ended
    teller.world.cut()
    teller.boot()
    teller.finish()
    check_told(any_host, teller)
    ((used, _),) = teller.world.station.used.values()
    assert [used] == [*teller.energies().values()]


@settings(max_examples=60, derandomize=True, **COMMON)
@given(stories)
def test_the_firmware_signs_what_is_billed(any_host, story):
    check_story(any_host, story)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(max_examples=5000, **COMMON)
@given(stories)
def test_the_firmware_signs_what_is_billed_in_many_stories(any_host, story):
    check_story(any_host, story)
