"""The conflict table of reconcile/policy.py: one test a row."""

import struct
from pathlib import Path

import pytest
import test_reconcile_evidence
import test_reconcile_parking
from charger import SITE, TARIFF

from chargekeep_tools import keys, objects, trust, wire
from chargekeep_tools.reconcile import cli, policy
from chargekeep_tools.reconcile.apply import Pass
from chargekeep_tools.reconcile.books import HomeBooks
from chargekeep_tools.reconcile.schema import (
    adjustments,
    batches,
    exceptions,
    records,
    transactions,
)
from chargekeep_tools.sim.replica import BOOT, METER_SEGMENT, METER_VALUE, START, TX_ENDED, Replica

PRICED = (7, 1)
CLOCK_SET = 7


def only(found, flags, energy_wh):
    (bill,) = found
    assert (bill["flags"], bill["energy_wh"]) == (flags, energy_wh)
    return bill


@pytest.mark.parametrize("reason", [3, 15])
def test_token_limit(host, replica, reason):
    replica.start(PRICED, max_wh=1000)
    replica.register += 1000
    replica.stop(reason)
    only(host.reconcile(replica), "token_limit", 1000)
    assert host.kinds() == []


def test_over_limit(host, replica):
    replica.start(PRICED, max_wh=1000)
    replica.register += 1001
    replica.stop(3)
    only(host.reconcile(replica), "over_limit,token_limit", 1001)
    assert host.kinds() == ["over_limit"]


def test_deauthorized(host, replica):
    replica.start(PRICED)
    replica.register += 300
    replica.stop(1)
    only(host.reconcile(replica), "deauthorized", 300)


def test_resumed(host, replica):
    replica.start(PRICED)
    replica.register += 300
    replica.sleep(600)
    replica.reboot()
    replica.register += 200
    replica.sleep(600)
    replica.stop()
    bill = only(host.reconcile(replica), "resumed", 500)
    assert bill["seconds"] == 1200


def test_power_loss(host, replica):
    replica.start(PRICED)
    replica.register += 300
    replica.reboot()
    replica.stop(9)
    only(host.reconcile(replica), "power_loss", 300)


def test_tariff_superseded(host, replica):
    objects.sign(host.home, wire.TARIFF, SITE, TARIFF | {12: 9999}, now=START - 10)
    replica.charge(1000, tariff=PRICED)
    bill = only(host.reconcile(replica), "tariff_superseded", 1000)
    assert bill["energy"] == "0.3500"


def test_tariff_signed_after_the_start_supersedes_nothing(host, replica):
    objects.sign(host.home, wire.TARIFF, SITE, TARIFF | {12: 9999}, now=START + 10)
    replica.charge(1000, tariff=PRICED)
    only(host.reconcile(replica), "", 1000)


def test_unknown_token(host, replica):
    host.issued = lambda cti: cti != b"unknown!"
    replica.start(PRICED, cti=b"unknown!")
    replica.register += 100
    replica.stop()
    replica.charge(50, tariff=PRICED)
    only(host.reconcile(replica), "", 50)  # the one after it is not held up
    assert host.kinds() == ["unknown_token"]
    assert host.reconciler.projector.retry() == 0
    host.resolve("kind=unknown_token")
    assert host.reconciler.projector.retry() == 1
    assert [b["energy_wh"] for b in cli.list_bills(host.engine)] == [100, 50]


def test_tokens_of_issuers_elsewhere(host, replica):
    """Known by the site's trust lists, the superseded as well; but not if its key is here."""
    for name in ("elsewhere", "later", "apart"):
        keys.create(host.home, name, "issuer", now=START, encrypted=False)
    keys.create(host.home, "prices", "issuer", keys.scope_bits("tariff"), encrypted=False)
    trust.build(host.home, SITE, ["elsewhere", "issuer", "prices"], now=START)
    trust.build(host.home, SITE, ["issuer", "later", "prices"], now=START)
    for name in ("elsewhere", "later", "apart", "prices"):
        host.home.key_path(name).unlink()
    books = HomeBooks(host.home)

    def issued(name, at=START):
        return books.issued(SITE, b"notours!", bytes.fromhex(host.home.key(name)["kid"]), at)

    assert issued("elsewhere") and issued("later") and issued("later", None)
    assert not issued("apart") and not issued("prices")
    assert not issued("issuer")  # of our own keys the register knows each token
    record = host.home.key("elsewhere")
    assert not issued("elsewhere", record["exp"] + 1)
    assert not issued("elsewhere", record["nbf"] - 1)
    assert not books.issued(SITE, b"notours!", None, START)
    host.home.add_entitlement(SITE, {"cti": b"isours!!".hex()})
    assert books.issued(SITE, b"isours!!", None, START)


def test_unknown_tariff(host, replica):
    replica.charge(1000, tariff=(7, 2))
    assert host.reconcile(replica) == [] and host.kinds() == ["unknown_tariff"]
    objects.sign(host.home, wire.TARIFF, SITE, TARIFF, now=START)
    assert host.reconciler.projector.retry() == 1
    only(cli.list_bills(host.engine), "", 1000)


def test_what_is_unblocked_is_billed_while_the_reconciler_runs(host, replica, monkeypatch):
    projector = host.reconciler.projector
    host.issued = lambda cti: cti != b"unknown!"
    replica.start(PRICED, cti=b"unknown!")
    replica.stop()
    replica.charge(1000, tariff=(7, 2))
    assert host.reconcile(replica) == []
    host.resolve("kind=unknown_token")
    host.reconciler.project()
    assert cli.list_bills(host.engine) == []  # not looked for at every turn
    projector._unblock_at = 0
    host.reconciler.project()
    assert [b["tx"] for b in cli.list_bills(host.engine)] == [1]
    with monkeypatch.context() as patched:  # what cannot be billed stops one log, not the rest
        projector._unblock_at = 0
        objects.sign(host.home, wire.TARIFF, SITE, TARIFF, now=START)
        tried = []
        patched.setattr(Pass, "again", lambda *_: tried.append(1) or 1 / 0)
        host.reconciler.project()
        assert "unprojected" in host.kinds()
        projector._unblock_at = 0
        host.reconciler.project()
        assert len(tried) == 1
    projector.take_up("cured")
    projector._unblock_at = 0
    host.reconciler.project()
    assert [b["tx"] for b in cli.list_bills(host.engine)] == [1, 2]
    left = [row["kind"] for row in host.rows(exceptions) if row["resolved"] is None]
    assert left == [] and host.kinds() == ["unknown_tariff", "unknown_token", "unprojected"]


def test_clock_corrected(host, replica):
    replica.start(PRICED)
    before = replica.time
    replica.sleep(100)
    replica.time += 10_000
    replica.append(CLOCK_SET, [before + 100, replica.time, 1])
    replica.sleep(100)
    replica.stop()
    bill = only(host.reconcile(replica), "clock_corrected", 0)
    assert (bill["seconds"], bill["started"]) == (200, before)
    (row,) = host.rows(transactions)
    assert row["ended_time"] == before + 10_200


def test_time_unknown(host, replica):
    replica.time = None
    replica.reboot()
    replica.sleep(50)
    replica.charge(100, seconds=60, tariff=PRICED)
    assert only(host.reconcile(replica), "time_unknown", 100)["started"] is None
    replica.time = START + 1000
    replica.append(CLOCK_SET, [None, replica.time, 1])
    bill = only(host.reconcile(replica), "time_unknown", 100)
    assert bill["started"] == START + 1000 - 60
    (row,) = host.rows(transactions)
    assert row["started_time"] is None


def test_duration_unknown(host, replica):
    replica.time = None
    replica.start(PRICED)
    replica.register += 1000
    replica.reboot()
    replica.stop()
    bill = only(host.reconcile(replica), "duration_unknown,resumed,time_unknown", 1000)
    assert (bill["time"], bill["total"]) == ("0.0000", "0.5500")


def test_meter_segment(host, replica):
    replica.register = 9000
    replica.start(PRICED)
    replica.append(METER_SEGMENT, [9400, 5, 3])
    replica.register = 105
    replica.stop()
    replica.charge(50, tariff=PRICED)
    found = host.reconcile(replica)
    assert [(b["energy_wh"], b["flags"]) for b in found] == [(500, "meter_segment"), (50, "")]


def test_no_register(host, replica):
    replica.register = None
    replica.start(PRICED)
    replica.register = 5
    replica.stop()
    assert host.reconcile(replica) == [] and host.kinds() == ["no_register"]


def test_register_decreased(host, replica):
    replica.register = 500
    replica.start(PRICED)
    replica.register = 499
    replica.stop()
    assert host.reconcile(replica) == [] and host.kinds() == ["register_decreased"]


def test_double_energy(host, replica):
    replica.charge(1000, tariff=PRICED)
    replica.register = 999
    replica.charge(1000, tariff=PRICED)
    only(host.reconcile(replica), "", 1000)
    assert host.kinds() == ["double_energy"]


def test_same_wh_after_a_meter_exchange_is_another_wh(host, replica):
    replica.charge(1000, tariff=PRICED)
    replica.append(METER_SEGMENT, [1000, 0, 3])
    replica.register = 0
    replica.charge(1000, tariff=PRICED)
    assert [b["energy_wh"] for b in host.reconcile(replica)] == [1000, 1000]


def test_unterminated(host, replica):
    replica.start(PRICED)
    replica.charge(10, tariff=PRICED)
    only(host.reconcile(replica), "", 10)
    assert host.kinds() == ["unterminated"]


def test_late(host, replica):
    replica.charge(1000, tariff=PRICED)
    replica.register += 200
    replica.append(TX_ENDED, [1, 9, 10, 6, replica.register])
    bill = only(host.reconcile(replica), "", 1000)
    assert (bill["total"], bill["adjusted"]) == ("0.6100", "0.0700")
    assert host.kinds() == ["late"]
    (row,) = host.rows(adjustments)
    assert (row["tx"], row["energy_wh"]) == (1, 200)


def test_unknown_record(host, replica):
    replica.append(20, [1, b"of a newer firmware"])
    replica.charge(10, tariff=PRICED)
    only(host.reconcile(replica), "", 10)
    assert host.kinds() == ["unknown_record"] and replica.acknowledged == len(replica.slots)
    assert 20 in [row["type"] for row in host.rows(records)]


@pytest.mark.parametrize("body", [["not a number"], [1], [None, 1, 1, 1, 1], [[1], 1, 1, 1, 1]])
def test_unreadable(host, replica, body):
    replica.append(TX_ENDED, body)
    replica.charge(10, tariff=PRICED)
    only(host.reconcile(replica), "", 10)
    assert host.kinds() == ["unreadable"] and replica.acknowledged == len(replica.slots)


@pytest.mark.parametrize("body", [["x", b"l" * 8, b"s" * 64], [-1, b"l" * 8, b""], [1, 2, 3], []])
def test_unreadable_heads(host, replica, body):
    replica.append(12, body)
    replica.charge(10, tariff=PRICED)
    only(host.reconcile(replica), "", 10)
    assert host.kinds() in (["unreadable"], ["bad_head"])
    assert replica.acknowledged == len(replica.slots)


def test_what_thinning_moves_is_taken_once(host, replica, monkeypatch):
    replica.append(METER_VALUE, [100, 0])
    first = replica.batches()
    encode = wire.dumps
    with monkeypatch.context() as patched:
        patched.setattr(wire, "dumps", lambda body: struct.pack("<I", 2) + encode(body))
        replica.append(0x80 | METER_VALUE, [100, 0])
        replica.append(0x80 | METER_VALUE, [100, 0])
    replica.append(METER_VALUE, [100, 0])
    host.give(replica, *first)
    host.give(replica, *replica.batches())
    assert [row["seq"] for row in host.rows(records)] == [1, 2, 5] and host.kinds() == []
    host.reconciler.projector.rebuild()
    assert [row["seq"] for row in host.rows(records)] == [1, 2, 5] and host.kinds() == []


def test_lost(host, replica):
    replica.charge(10, tariff=PRICED)
    (first,) = replica.batches()
    for i in range(5):
        replica.append(BOOT, [i, "lost"])
    replica.charge(20, tariff=PRICED)
    body = replica.body(len(replica.slots) - 5)
    body[14] = body[11] - 6
    host.give(replica, first, wire.seal_batch(replica.key, body))
    assert [b["energy_wh"] for b in cli.list_bills(host.engine)] == [10, 20]
    assert host.kinds() == ["lost"] and replica.acknowledged == len(replica.slots)


def head(replica, seq=None, link=None, key=None, log_id=None):
    """A head record as the station appends it, or a false one."""
    seq = len(replica.slots) if seq is None else seq
    link = replica.slots[seq - 1].link if link is None else link
    message = b"chargekeep head 1" + (log_id or replica.log_id) + struct.pack("<I", seq) + link
    replica.append(12, [seq, link, (key or replica.key).sign(message)])


def test_true_heads(host, replica):
    replica.charge(10, tariff=PRICED)
    head(replica)
    head(replica, 2)  # any slot that came before
    (first,) = replica.batches()
    host.give(replica, first)
    head(replica)  # the last one of the batch before
    replica.append(BOOT, [1, "x"])
    head(replica, 3)  # in a batch before
    assert len(host.reconcile(replica)) == 1 and host.kinds() == []


@pytest.mark.parametrize(
    "false",
    [
        {"link": b"another!"},
        {"key": Replica(SITE, "cp-2").key},
        {"log_id": b"another log's id"},
        {"seq": 1, "link": b"another!"},
        {"seq": 99, "link": b"to come!"},
    ],
)
def test_bad_head(host, replica, false):
    replica.charge(10, tariff=PRICED)
    head(replica, **false)
    only(host.reconcile(replica), "", 10)
    assert host.kinds() == ["bad_head"] and replica.acknowledged == len(replica.slots)


def test_fork(host, replica):
    twin = Replica(SITE, "cp-1")  # the same identity, another life
    replica.charge(10, tariff=PRICED)
    twin.charge(99, tariff=PRICED)
    only(host.reconcile(replica), "", 10)
    host.give(replica, *twin.batches())
    only(cli.list_bills(host.engine), "", 10)
    assert host.kinds() == ["fork"]
    replica.charge(5, tariff=PRICED)  # the history goes on
    assert len(host.reconcile(replica)) == 2


def test_unknown_log(host, replica):
    other = Replica(SITE, "cp-1", seed=1)
    other.key, other.public = replica.key, replica.public
    other.charge(10, tariff=PRICED)
    host.deaf = True
    host.give(replica, *other.batches())
    assert host.kinds() == ["unknown_log"] and cli.list_bills(host.engine) == []
    assert [row["state"] for row in host.rows(batches)] == [2]


def test_no_seal_key(host, replica):
    record = replica.record()
    host.home.save_station(record | {"seal_key": None})
    host.reconciler.stations.refresh()
    replica.charge(10, tariff=PRICED)
    assert host.reconcile(replica) == [] and host.kinds() == ["no_seal_key"]
    assert replica.acknowledged == 0
    host.home.save_station(record)
    host.reconciler.stations.refresh()
    only(host.reconcile(replica), "", 10)


def test_every_rule_has_its_test():
    names = [*globals(), *vars(test_reconcile_parking), *vars(test_reconcile_evidence)]
    tests = {name.removeprefix("test_") for name in names if name.startswith("test_")}
    assert {rule.flag for rule in policy.RULES} <= tests


def test_the_documentation_has_the_table():
    text = (Path(__file__).parent.parent / "tools" / "README.md").read_text()
    for rule in policy.RULES:
        assert f"| {rule.flag} | {rule.conflict} | {rule.policy} |" in text


def test_transactions_that_took_nothing_share_a_register(host, replica):
    for _ in range(2):
        replica.start(PRICED)
        replica.stop(6)
    found = host.reconcile(replica)
    assert [bill["energy_wh"] for bill in found] == [0, 0]
    assert found[0]["register_from"] == found[1]["register_from"]
