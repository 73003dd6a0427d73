"""From signed batches to bills, without a network."""

import pytest
from charger import NOW, SITE, Charger
from mptest import at_last
from reconcile_host import Host

from chargekeep_tools import keys, wire
from chargekeep_tools.log import slots
from chargekeep_tools.log.records import verify_batch
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.schema import bills, exceptions, records
from chargekeep_tools.reconcile.verify import expand, open_batch
from chargekeep_tools.sim.replica import METER_SEGMENT, TX_UPDATED


def test_what_is_billed_is_what_the_meter_counted(host):
    charger = host.add(Charger("cp-1", register=123_456))
    charger.charge(11_000, seconds=5400, updates=10)
    charger.charge(7, seconds=60)
    charger.mount()  # settles the tail
    host.give(charger, *charger.batches())
    first, second = cli.list_bills(host.engine)
    assert (first["register_from"], first["register_to"]) == (123_456, 134_456)
    assert (first["energy_wh"], first["seconds"], first["currency"]) == (11_000, 5400, "EUR")
    # 11 kWh at 0.35, 1.5 h at 0.06, a start at 0.20
    assert (first["energy"], first["time"], first["start"]) == ("3.8500", "0.0900", "0.2000")
    assert first["total"] == "4.1400"
    # 7 Wh at 0.35 is 0.00245, rounded half up; a minute at 0.06 an hour is 0.0010
    assert (second["energy"], second["time"], second["total"]) == ("0.0025", "0.0010", "0.2035")
    assert charger.ledger.acknowledged == charger.ledger.head[0] - 1 or charger.ledger.backlog <= 2
    assert host.kinds() == []


def test_acknowledgement_frees_exactly_what_was_committed(host):
    charger = host.add(Charger("cp-1"))
    charger.charge(1000, updates=30)
    charger.update()
    batches = charger.batches(max_bytes=128)
    assert len(batches) > 3
    host.give(charger, *batches[:2])
    assert charger.ledger.acknowledged == open_batch(batches[1], charger.station).last
    host.give(charger, *batches[2:])
    assert charger.ledger.acknowledged == open_batch(batches[-1], charger.station).last


def test_duplicates_shuffles_and_overlaps_give_the_same(host):
    charger = host.add(Charger("cp-1"))
    host.deaf = True
    for wh in (100, 200, 300):
        charger.charge(wh, updates=8)
    charger.update()
    small, large = charger.batches(max_bytes=300), charger.batches(max_bytes=1500)
    host.give(charger, *reversed(small))
    host.give(charger, *large, *small, *large)
    assert [b[1:4] for b in host.bills()] == [(1, 0, 100), (2, 100, 300), (3, 300, 600)]
    assert len({row["seq"] for row in host.rows(records)}) == len(host.rows(records))
    assert host.reconciler.figures.batches["fork"] == 0
    assert cli.status(host.engine)["gaps"] == []


def test_gap_stops_the_acknowledgement_and_is_listed(host):
    charger = host.add(Charger("cp-1"))
    charger.charge(1000, updates=30)
    charger.update()
    batches = charger.batches(max_bytes=128)
    host.give(charger, batches[0], *batches[2:])
    first = open_batch(batches[0], charger.station)
    missing = open_batch(batches[1], charger.station)
    assert charger.ledger.acknowledged == first.last
    assert host.bills() == []
    (gap,) = cli.status(host.engine)["gaps"]
    assert (gap["first"], gap["last"]) == (missing.first, missing.last)
    host.give(charger, batches[1])
    assert charger.ledger.acknowledged == open_batch(batches[-1], charger.station).last
    assert len(host.bills()) == 1 and cli.status(host.engine)["gaps"] == []


def test_altered_and_foreign_batches_are_refused_and_never_acknowledged(host):
    charger, other = host.add(Charger("cp-1")), host.add(Charger("cp-2"))
    charger.charge(10)
    charger.update()
    (data,) = charger.batches()
    for at in range(0, len(data), 7):
        host.give(charger, data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :])
    host.give(charger, data[:-1], data + b"\0", b"", b"\xff" * 50)
    host.give(other, data)  # the right signature under the wrong name
    assert host.rows(records) == [] and host.events == []
    assert sum(host.reconciler.figures.refused.values()) == len(range(0, len(data), 7)) + 5
    assert host.give(charger, data) == 1 and charger.ledger.acknowledged


def test_station_signed_but_its_chain_broken(host):
    # The station's key alone does not suffice to change a record that is in the chain.
    charger = host.add(Charger("cp-1"))
    charger.charge(10)
    charger.update()
    body = wire.peek_batch(charger.batches()[0])
    slots = body[13][0][2]
    body[13][0][2] = slots[:10] + bytes((slots[10] ^ 1,)) + slots[11:]
    host.give(charger, wire.seal_batch(charger.key, body))
    assert host.reconciler.figures.refused == {510: 1} and host.events == []


def test_short_form_expands_to_the_bytes_in_flash(host):
    charger = host.add(Charger("cp-1"))
    for i in range(90):
        charger.ledger.append(5, [i, b"x" * (i % 60)])
        if i % 7 == 0:
            charger.reboot()  # repeats the last operation, now and then in a new sector
    charger.ledger.append(5, [0])
    follows, link = 0, slots.LogId(charger.log_id).genesis
    sent = charger.batches(max_bytes=700)
    for data in sent:
        full = expand(wire.peek_batch(data), charger.station)
        _, _, _, runs = at_last(charger.ledger.batch(follows, 10_000))
        stored = b"".join(data for _, _, data, _ in runs)
        assert stored.startswith(b"".join(data for _, _, data in full[13]))
        checked = verify_batch(
            full, link=link, log_id=charger.log_id, keys=slots.Keys(charger.seal)
        )
        assert open_batch(data, charger.station).links[-8:] == checked.link
        follows, link = checked.last_seq, checked.link
    assert host.give(charger, *sent) == len(sent) and charger.ledger.backlog <= 2


def test_slot_after_a_lost_one_is_taken_with_its_own_link(host):
    charger = host.add(Charger("cp-1"))
    for i in range(10):
        charger.ledger.append(5, [i, 0])
    body = wire.peek_batch(charger.batches(after=4)[0])
    first, _, _, (lost,) = at_last(charger.ledger.batch(4, 1, True))
    sector, index, data, link = body[13][0]
    rest = [sector, index + 1, data[len(lost[2]) :], link]
    body[12], body[14], body[13] = bytes(8), 0, [[*lost[:2], bytes(lost[2]), lost[3]], rest]
    host.give(charger, wire.seal_batch(charger.key, body))
    assert host.kinds() == ["lost"] and charger.ledger.acknowledged == first + 6
    body[11], body[13] = 12, [[1, 11, b"\x05\xc2ab" * 2, b"l" * 8]]
    host.give(charger, wire.seal_batch(charger.key, body))
    assert host.reconciler.figures.refused == {106: 1}


def test_restored_flash_image_is_quarantined(host):
    charger = host.add(Charger("cp-1"))
    charger.charge(1000)
    charger.update()
    image = charger.device.copy()
    charger.charge(500)
    charger.update()
    host.give(charger, *charger.batches())
    before = host.bills()
    head = charger.ledger.acknowledged
    charger.device, charger.register, charger.tx = image, 1000, 1
    charger.reboot()
    charger.charge(777)
    charger.update()
    host.deaf = True
    host.give(charger, *charger.batches(after=0))
    assert host.bills() == before and host.kinds() == ["fork"]
    assert cli.status(host.engine)["logs"][0]["head"] == head
    assert cli.status(host.engine)["logs"][0]["quarantined"] == 1


def test_rebuild_is_identical(host):
    a, b = host.add(Charger("cp-1")), host.add(Charger("cp-2", register=5))
    for wh in (100, 20, 3):
        a.charge(wh)
        b.charge(wh * 7)
    a.update(), b.update()
    for one, two in zip(a.batches(max_bytes=300), b.batches(max_bytes=300)):
        host.give(b, two)
        host.give(a, one)
    before = host.rows(bills), sorted(map(str, host.rows(exceptions)))
    host.reconciler.projector.rebuild()
    after = host.rows(bills), sorted(map(str, host.rows(exceptions)))
    assert sorted(map(str, before[0])) == sorted(map(str, after[0])) and before[1] == after[1]


def test_unknown_tariff_is_an_exception_until_it_is_known(host):
    charger = host.add(Charger("cp-1"))
    charger.start(tariff=(7, 2))
    charger.register += 100
    charger.stop()
    charger.update()
    host.give(charger, *charger.batches())
    assert host.bills() == [] and host.kinds() == ["unknown_tariff"]
    from chargekeep_tools import objects

    objects.sign(host.home, wire.TARIFF, SITE, {10: 7, 11: "EUR", 12: 1, 13: 0, 14: 0}, now=NOW)
    host.reconciler.projector.rebuild()
    assert len(host.bills()) == 1


def test_acknowledgement_key_needs_its_scope(tmp_path):
    host = Host(tmp_path)
    record = host.home.key("issuer")
    host.home.save_key(record | {"scope": keys.ALL_SCOPES & ~64})
    with pytest.raises(Exception, match="no issuer key"):
        host.restart()


def test_commands(host, monkeypatch, capsys):
    import json

    from chargekeep_tools.cli import main

    charger = host.add(Charger("cp-1"))
    charger.charge(1000)
    charger.start(tariff=(7, 99))
    charger.stop()
    charger.update()
    host.give(charger, *charger.batches())

    def run(*words):
        home = ["--home", str(host.home.root), "--database", host.url]
        part = [] if words[0] == "exceptions" else ["reconcile"]
        monkeypatch.setattr("sys.argv", ["chargekeep", *part, *words, *home])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "1000" in run("bill") and "cp-1" in run("status")
    assert json.loads(run("bill", "--json", "--tx", "1"))[0]["total"] == "0.6100"
    assert json.loads(run("status", "--json"))["exceptions"] == 1
    assert "unknown_tariff" in run("exceptions", "list")
    run("exceptions", "resolve", "free of charge", "--where", "kind=unknown_tariff")
    assert json.loads(run("exceptions", "list", "--json")) == []
    assert "records projected" in run("rebuild")
    assert json.loads(run("retry", "--json")) == {"batches": 0, "records": 0, "bills": 0}
    assert json.loads(run("exceptions", "list", "--json", "--resolved"))[0]["note"]


def test_migrations_end_at_the_schema_of_the_code(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from chargekeep_tools.reconcile.schema import metadata

    engine = store.connect(f"sqlite:///{tmp_path / 'new.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.connect(f"sqlite:///{tmp_path / 'new.db'}")  # a second time changes nothing


@pytest.mark.parametrize("pieces", [1, 4])
def test_nobody_goes_by_what_is_unreadable(host, replica, pieces):
    """Neither at once nor when it is read again from the database."""
    pytest.importorskip("ocpp")
    from chargekeep_tools.reconcile import ocpp

    replica.start((7, 1))
    for kind in (METER_SEGMENT, TX_UPDATED):
        replica.append(kind, [])
    replica.register += 100
    replica.stop()
    batches = replica.batches(most=len(replica.slots) // pieces)
    assert len(batches) >= pieces
    for data in batches:
        host.give(replica, data)
    assert [b["energy_wh"] for b in cli.list_bills(host.engine)] == [100]
    assert host.kinds() == ["unreadable", "unreadable"]
    with host.engine.connect() as connection:
        (row,) = ocpp.undelivered(connection)
        types = [event.event_type for event in ocpp.events(connection, row)]
    assert types == ["Started", "Ended"]


def test_metrics(host):
    from urllib.request import urlopen

    pytest.importorskip("prometheus_client")
    from chargekeep_tools.reconcile import metrics

    charger = host.add(Charger("cp-1"))
    charger.charge(1000)
    charger.update()
    host.give(charger, *charger.batches(), b"garbage")
    port = metrics.serve(host.reconciler, 0)
    text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'chargekeep_batches_total{outcome="accepted"} 1.0' in text
    assert "chargekeep_batches_refused_total{code=" in text
    assert "chargekeep_parked_batches 0.0" in text and "chargekeep_unprojected_logs 0.0" in text
    assert "chargekeep_bills 1.0" in text and "chargekeep_projection_backlog_slots 0.0" in text
