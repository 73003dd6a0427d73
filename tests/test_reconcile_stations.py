"""The stations of a home as the reconciler knows them: read once, and again when they change."""

import logging
import os

import pytest
from charger import SITE, make_home
from hypothesis import given, settings
from hypothesis import strategies as st
from reconcile_host import Host

from chargekeep_tools.home import Home
from chargekeep_tools.reconcile.verify import Stations
from chargekeep_tools.sim.replica import Replica

REPLICAS = [Replica(SITE, f"cp-{i}", seed) for i in range(3) for seed in range(2)]


class Counting(Home):
    read = 0

    def read_json(self, path, default=None):
        self.read += 1
        return super().read_json(path, default)


@pytest.fixture
def home(tmp_path):
    home = Counting(tmp_path)
    for replica in REPLICAS[::2]:
        home.save_station(replica.record())
    return home


@pytest.fixture
def stations(home):
    found = Stations(home)
    assert found.get(SITE, "cp-0") is not None and home.read == 3
    return found


def test_what_did_not_change_is_not_read_again(home, stations):
    stations.refresh()
    assert home.read == 3
    home.save_station(REPLICAS[1].record())
    stations.refresh()
    assert home.read == 4
    assert [*stations.known[SITE, "cp-0"].keys.values()] == [REPLICAS[1].public]


def test_two_changes_within_a_tick_of_the_clock_are_two(home, stations):
    home.save_station(REPLICAS[1].record())
    stamp = home.stations_folder.stat().st_mtime_ns
    stations.refresh()
    home.save_station(REPLICAS[3].record())
    os.utime(home.stations_folder, ns=(stamp, stamp))
    stations._looked = -stations._LOOK_AGAIN_S
    assert [*stations.get(SITE, "cp-1").keys.values()] == [REPLICAS[3].public]


def test_a_station_that_changes_its_site_is_at_one(home, stations):
    home.save_station(REPLICAS[0].record() | {"site": "elsewhere"})
    stations.refresh()
    assert stations.get(SITE, "cp-0") is None
    assert stations.get("elsewhere", "cp-0") is not None


def test_one_station_is_looked_at_alone(home, stations):
    known = stations.get(SITE, "cp-0")
    assert stations.look_again(SITE, "cp-0") is known and home.read == 3
    home.save_station(REPLICAS[1].record())
    home.save_station(REPLICAS[3].record())
    new = stations.look_again(SITE, "cp-0")
    assert new is not known and home.read == 4
    assert stations.look_again("elsewhere", "cp-0") is None
    for name in ("../cp-0", "cp-9", "", "a/b\0"):
        assert stations.look_again(SITE, name) is None
    (home.stations_folder / "cp-0.json").unlink()
    assert stations.look_again(SITE, "cp-0") is None and home.read == 4


def test_a_flood_under_a_foreign_key_reads_nothing(tmp_path):
    host = Host(tmp_path, home=Counting(make_home(tmp_path / "home").root))
    known = host.add(Replica(SITE, "cp-1"))
    stranger = Replica(SITE, "cp-1", seed=1)
    stranger.charge(10)
    host.home.read = 0
    host.give(known, *stranger.batches() * 50)
    assert host.home.read == 0 and host.reconciler.figures.refused == {113: 50}


def test_a_station_that_was_made_anew_is_believed_at_once(tmp_path):
    host = Host(tmp_path)
    host.add(Replica(SITE, "cp-1"))
    assert host.reconciler.stations.get(SITE, "cp-1") is not None  # and not soon again
    new = Replica(SITE, "cp-1", seed=1)
    new.charge(10)
    host.home.save_station(new.record())
    host.chargers[new.name] = new
    host.give(new, *new.batches())
    assert new.acknowledged == len(new.slots) and not host.reconciler.figures.refused


def test_a_damaged_record_stops_nobody(home, stations, caplog):
    path = home.stations_folder / "cp-0.json"
    for damage in (b"", b"[]", b"{}", b'{"site": 1}', b"null"):
        path.write_bytes(damage)
        home.save_station(REPLICAS[3].record())
        with caplog.at_level(logging.ERROR):
            stations.refresh()
        assert "cp-0.json" in caplog.text
        caplog.clear()
        assert stations.get(SITE, "cp-0") is not None  # as it was known
        home.save_station(REPLICAS[2].record())
    path.write_bytes(b"{")
    stations.refresh()
    path.unlink()
    stations.refresh()
    assert stations.get(SITE, "cp-0") is None
    path.write_bytes(b"{")
    fresh = Stations(home)
    assert fresh.get(SITE, "cp-0") is None and fresh.get(SITE, "cp-1") is not None
    home.save_station(REPLICAS[0].record())
    assert fresh.look_again(SITE, "cp-0") is not None


change = st.tuples(st.sampled_from(["save", "remove", "look", "refresh"]), st.integers(0, 5))


@settings(max_examples=40, deadline=None)
@given(st.lists(change, max_size=12))
def test_after_any_changes_a_refresh_knows_what_is_there(tmp_path_factory, changes):
    home = Home(tmp_path_factory.mktemp("home"))
    stations = Stations(home)
    there = {}
    for what, number in changes:
        replica = REPLICAS[number]
        if what == "save":
            home.save_station(replica.record())
            there[SITE, replica.name] = replica.public
        elif what == "remove":
            (home.stations_folder / f"{replica.name}.json").unlink(missing_ok=True)
            there.pop((SITE, replica.name), None)
        elif what == "look":
            stations.look_again(SITE, replica.name)
        else:
            stations.refresh()
            found = {key: [*known.keys.values()] for key, known in stations.known.items()}
            assert found == {key: [public] for key, public in there.items()}
    stations._looked = -stations._LOOK_AGAIN_S
    for key, public in there.items():
        found = stations.get(*key)
        assert found is not None and [*found.keys.values()] == [public]
