"""The operator's home: durable files, strictly increasing versions, private modes."""

import multiprocessing
import stat

import pytest

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home, checked_name


def take(root, queue):
    home = Home(root)
    for _ in range(20):
        queue.put(home.next_version("s", "tariff"))


def test_no_version_is_given_out_twice_even_to_several_processes(tmp_path):
    queue = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=take, args=(tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    versions = [queue.get(timeout=30) for _ in range(60)]
    for worker in workers:
        worker.join()
    assert sorted(versions) == list(range(1, 61))


def test_a_version_stays_above_objects_when_the_counter_file_is_lost(tmp_path):
    home = Home(tmp_path)
    for _ in range(3):
        home.save_object("s", "tariff", home.next_version("s", "tariff"), b"x")
    (tmp_path / "sites/s/versions.json").unlink()
    assert home.next_version("s", "tariff") == 4


def test_secrets_are_for_the_owner_only(tmp_path):
    home = Home(tmp_path / "home")
    key = home.site_key("s")
    home.save_station({"station": "a", "site": "s"})
    assert home.site_key("s") == key and len(key) == 32
    for name in ("sites/s/site.json", "stations/a.json"):
        assert stat.S_IMODE((tmp_path / "home" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    home = Home(tmp_path)
    home.save_station({"station": "a", "site": "s"})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError):
        home.save_station({"station": "a", "site": "other"})
    monkeypatch.undo()
    assert home.station("a")["site"] == "s"
    assert [path.name for path in (tmp_path / "stations").iterdir()] == ["a.json"]


def test_damage_is_named(tmp_path):
    home = Home(tmp_path)
    home.save_station({"station": "a", "site": "s"})
    (tmp_path / "stations/a.json").write_text("{")
    with pytest.raises(ToolError) as caught:
        home.station("a")
    assert caught.value.exit_code == Exit.HOME


@pytest.mark.parametrize("name", ["", "..", "a/b", "+", "#", "all", "-x", "a" * 33, "ä", "a\n"])
def test_names_that_could_escape_are_refused(name):
    with pytest.raises(ToolError) as caught:
        checked_name(name, "station")
    assert caught.value.exit_code == Exit.USAGE
