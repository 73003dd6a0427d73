"""Provisioning over a serial port: the host's side against the firmware in a MicroPython VM."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chargekeep.sealed import SealedStore
from chargekeep_tools import (
    allowlist,
    boards,
    keys,
    label,
    policy,
    provision,
    trust,
    upload,
    wire,
)
from chargekeep_tools import bundle as bundles
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import opened
from chargekeep_tools.home import Home
from chargekeep_tools.programs import firmware_root
from chargekeep_tools.sim.board import SimBoard
from chargekeep_tools.sim.station import Station

NETWORK = provision.network_map(wifi=("Hall", "secret"), broker=("10.0.0.5", 1883))


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "op", "issuer", encrypted=False)
    trust.build(home, "hall")
    policy.tariff(home, "hall", 1, "EUR", 3500)
    policy.configuration(home, "hall", {12: 5000})
    ids = [(f"id-{i}", 0, 0) for i in range(120)]
    allowlist.build(home, "hall", ids, exp=2_000_000_000)
    return home


@pytest.fixture
def station(tmp_path):
    return Station(tmp_path / "bay-1", "/dev/null")


def refused(function, *args, **named):
    with pytest.raises(ToolError) as caught:
        function(*args, **named)
    return caught.value


def test_a_board_becomes_a_station(home, station):
    with station.repl() as port:
        record = provision.provision(home, port, "hall", "bay-1", network=NETWORK, evse_id=3)
    assert record["installed"] == {"trust": 1, "config": 1, "tariff": 1, "allowlist": 1}
    kept = home.station("bay-1")
    assert kept == {name: value for name, value in record.items() if name != "installed"}
    assert kept["kid"] == wire.kid(bytes.fromhex(kept["public_key"])).hex()
    files = {path.name: path.read_bytes() for path in (station.folder / "fs").iterdir()}
    store = SealedStore(str(station.folder / "fs"), bytes.fromhex(kept["unique_id"]))
    identity = wire.loads(store.read("identity"))
    assert {key: identity[key] for key in (1, 2, 3)} == {1: "hall", 2: "bay-1", 3: 3}
    assert identity[4].hex() == home.key("root")["public_key"]
    assert identity[6] == home.site_key("hall")
    assert identity[7].hex() == kept["log_id"]
    mqtt = kept["mqtt"]
    assert wire.loads(store.read("network")) == NETWORK | {5: mqtt["user"], 6: mqtt["password"]}
    for name in ("trust", "config", "tariff"):
        assert files[name] == home.current("hall", name)[None][1]
    pages = b"".join(allowlist.chunks(home, "hall", 1))
    assert pages in (files.get("allowlist.slot0"), files.get("allowlist.slot1"))
    # What only the host may know, and what only the device may know
    assert "commission.seal" not in files and len(bytes.fromhex(kept["seal_key"])) == 32
    seed = identity[5]
    everything = b"".join(p.read_bytes() for p in home.root.rglob("*") if p.is_file())
    assert seed not in everything and seed.hex().encode() not in everything
    assert not any(secret in data for data in files.values() for secret in (seed, identity[6]))


def test_a_slow_board_is_given_prompt_suites(home, station, monkeypatch):
    network = NETWORK | {7: True, 8: b"certificate"}
    with station.repl() as port:

        def settings(**how):
            secret = provision.provision(home, port, "hall", "bay-1", **how)["unique_id"]
            store = SealedStore(str(station.folder / "fs"), bytes.fromhex(secret))
            return wire.loads(store.read("network"))

        assert 12 not in settings(network=network)
        monkeypatch.setattr(provision, "_SLOW", "linux")
        assert settings(network=network)[12] is True
        assert 12 not in settings(network=network, forward_secrecy=True)
        assert 12 not in settings(network=NETWORK)  # no TLS


def test_a_second_run_keeps_key_and_log(home, station):
    with station.repl() as port:
        first = provision.provision(home, port, "hall", "bay-1", network=NETWORK)
    flash = (station.folder / "flash.nor").read_bytes()
    with station.repl() as port:
        second = provision.provision(home, port, "hall", "bay-1", network=NETWORK)
    assert second == first
    assert (station.folder / "flash.nor").read_bytes() == flash


def test_a_board_is_no_other_station_unless_told(home, station):
    with station.repl() as port:
        first = provision.provision(home, port, "hall", "bay-1")
    with station.repl() as port:
        error = refused(provision.provision, home, port, "hall", "bay-2")
    assert error.exit_code == Exit.DEVICE and "hall/bay-1" in str(error)
    assert not home.has_station("bay-2")
    with station.repl() as port:
        second = provision.provision(home, port, "hall", "bay-2", replace=True)
    assert second["public_key"] != first["public_key"]
    assert second["log_id"] != first["log_id"]


def test_another_board_is_not_taken_for_the_station(home, station, tmp_path):
    with station.repl() as port:
        first = provision.provision(home, port, "hall", "bay-1")
    other = Station(tmp_path / "other", "/dev/null")
    with other.repl() as port:
        error = refused(provision.provision, home, port, "hall", "bay-1")
        assert error.exit_code == Exit.WRONG_BOARD
    assert home.station("bay-1")["public_key"] == first["public_key"]
    with other.repl() as port:
        second = provision.provision(home, port, "hall", "bay-1", replace=True)
    assert second["former"][0]["public_key"] == first["public_key"]


def test_an_object_of_a_stranger_is_refused(home, station, tmp_path):
    with station.repl() as port:
        provision.provision(home, port, "hall", "bay-1")
    stranger = Home(tmp_path / "stranger")
    keys.create(stranger, "root", "root", encrypted=False)
    keys.create(stranger, "op", "issuer", encrypted=False)
    trust.build(stranger, "hall")
    stranger.save_station(home.station("bay-1"))
    with station.repl() as port, opened(port) as device:
        error = refused(provision.install, stranger, device, "bay-1")
    assert error.exit_code == Exit.DEVICE and "E113" in str(error)


def test_the_port_speaks_up(home, station):
    assert refused(provision.provision, home, "/dev/null", "hall", "a").exit_code in (
        Exit.NO_DEVICE,
        Exit.BUSY,
    )
    with station.repl() as port, opened(port) as device:
        assert refused(device.run, "1/0").exit_code == Exit.DEVICE
        assert refused(device.run, "raise OSError(28)").exit_code == Exit.NO_SPACE
        assert refused(device.call, "print('no JSON')").exit_code == Exit.TRANSFER
        (station.folder / "config.json").write_text(json.dumps({"meter": {}, "nonsense": 1}))
        error = refused(provision.commission, home, device, "hall", "bay-1")
        assert error.code == 700 and error.hint


# Stands in for the module on the device: a file system with 48 KiB left
FULL = """
class os:
    getcwd = staticmethod(lambda: "/")
    statvfs = staticmethod(lambda path: (4096, 0, 0, 12))
"""


def first_bundle(home):
    return bundles.build(home, "hall", "UNIX", version="0.0.1")


WIRING = (firmware_root() / "boards" / "UNIX" / "config.json").read_bytes()


def test_an_empty_board_becomes_a_station_with_firmware(home, tmp_path):
    bundle = first_bundle(home)
    lines = {}
    with SimBoard(tmp_path / "empty") as board:
        record = provision.provision(
            home,
            board.port,
            "hall",
            "bay-1",
            bundle=bundle,
            wiring=WIRING,
            test=True,
            progress=lambda name, size: lines.update({name: size}),
        )
    assert record["version"] == 1 and record["installed"]["trust"] == 1
    assert sum(lines.values()) >= sum(map(len, bundle.files.values()))
    assert not record["self_test"]["meter"]["ok"]  # nothing is wired to it
    assert record["self_test"]["memory"]["ok"]
    folder = tmp_path / "empty"
    assert (folder / "slot").read_text() == "a"
    assert (folder / "a" / "manifest").read_bytes() == bundle.manifest
    for path, data in bundle.files.items():
        assert (folder / "a" / path).read_bytes() == data
    page = label.page(home.station("bay-1"))
    assert "bay-1" in page and "<svg" in page and "E7" in page


def test_a_bundle_that_does_not_fit_is_refused_before_anything_is_written(home, tmp_path):
    bundle = first_bundle(home)
    with SimBoard(tmp_path / "empty") as board, opened(board.port) as device:
        facts = upload.hello(device)
        for changed, code in [
            ({"platform": "esp32"}, Exit.WRONG_BOARD),
            ({"version": [1, 20, 0]}, Exit.WRONG_ABI),
            ({"mpy": 5}, Exit.WRONG_ABI),
        ]:
            error = refused(provision.check_board, board.port, facts | changed, bundle)
            assert error.exit_code == code and error.hint
        device.run(FULL)
        error = refused(upload.upload, device, {"a/x": bytes(20000)})
        assert error.exit_code == Exit.NO_SPACE
    assert os.listdir(tmp_path / "empty") == []


def test_several_boards_at_once(home, tmp_path):
    path = tmp_path / "fw.ckb"
    path.write_bytes(first_bundle(home).encode())
    with SimBoard(tmp_path / "one") as one, SimBoard(tmp_path / "two") as two:
        plan = tmp_path / "plan.csv"
        plan.write_text(
            f"port,station,evse\n{one.port},bay-1,1\n/dev/none,bay-9,1\n{two.port},bay-2,2"
        )
        words = ["provision-many", plan, "--bundle", path, "--no-test", "--jobs", "3", "--json"]
        done = subprocess.run(
            [Path(sys.executable).parent / "chargekeep", *map(str, words)],
            env=dict(os.environ, CHARGEKEEP_HOME=str(home.root)),
            capture_output=True,
            text=True,
        )
    assert done.returncode == Exit.NO_DEVICE, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["station"] for r in records] == ["bay-1", "bay-9", "bay-2"]
    assert records[1]["exit_code"] == Exit.NO_DEVICE
    assert {r["evse_id"] for r in records if "evse_id" in r} == {1, 2}
    assert home.station("bay-1")["public_key"] != home.station("bay-2")["public_key"]
    assert "password" not in done.stdout and "seal_key" not in done.stdout


def test_a_board_is_never_chosen_silently(monkeypatch):
    def connected(*serials):
        found = [boards.Port(f"/dev/ttyACM{i}", s, "x", "y") for i, s in enumerate(serials)]
        monkeypatch.setattr(boards, "ports", lambda: found)

    connected("E661")
    assert boards.resolve("auto") == "/dev/ttyACM0"
    connected("E661", "E662")
    assert refused(boards.resolve, "auto").exit_code == Exit.NO_DEVICE
    assert boards.resolve("e662") == "/dev/ttyACM1"
    assert boards.resolve("/dev/ttyS9") == "/dev/ttyS9"
    connected("same", "same")
    assert refused(boards.resolve, "same").exit_code == Exit.NO_DEVICE
    connected()
    assert refused(boards.resolve, "auto").exit_code == Exit.NO_DEVICE


def provision_with_cuts(home, folder, bundle, rng, spread):
    """Provision with power cuts until it succeeds; how many cuts it took."""
    for cuts in range(100):
        with SimBoard(folder) as board:
            # Three cuts, then it is left alone
            cut = board.power_cut if cuts < 3 else int
            timer = threading.Timer(rng.uniform(0.05, spread), cut)
            timer.start()
            try:
                record = provision.provision(
                    home, board.port, "hall", folder.name, bundle=bundle, wiring=WIRING
                )
            except ToolError as error:
                assert cuts < 3, error
                assert error.exit_code in (Exit.TRANSFER, Exit.BUSY, Exit.NO_DEVICE), error
                timer.join()
                continue
            timer.cancel()
            timer.join()
            return cuts, record
    raise AssertionError("it never gets done")


def check_cuts(home, tmp_path, wanted):
    """Cut the power anywhere in what provisioning takes, until it was cut `wanted` times."""
    bundle = first_bundle(home)
    with SimBoard(tmp_path / "uncut") as board:
        started = time.monotonic()
        provision.provision(home, board.port, "hall", "uncut", bundle=bundle, wiring=WIRING)
        whole_s = time.monotonic() - started
    seed = total = 0
    while total < wanted:
        seed += 1
        folder = tmp_path / f"bay-{seed}"
        cuts, record = provision_with_cuts(home, folder, bundle, random.Random(seed), whole_s)
        total += cuts
        with SimBoard(folder) as board:
            again = provision.provision(
                home, board.port, "hall", folder.name, bundle=bundle, wiring=WIRING
            )
        assert again == record  # the same key, the same log, and its seal key is not lost
        assert len(bytes.fromhex(record["seal_key"])) == 32
        for path, data in bundle.files.items():
            assert (folder / "a" / path).read_bytes() == data
        shutil.rmtree(folder)


def test_provisioning_goes_on_after_power_cuts(home, tmp_path):
    check_cuts(home, tmp_path, 1)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_provisioning_goes_on_after_two_hundred_power_cuts(home, tmp_path):
    check_cuts(home, tmp_path, 200)
