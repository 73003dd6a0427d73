"""Provisioning over a serial port: the host's side against the firmware in a MicroPython VM."""

import json

import pytest

from chargekeep_tools import allowlist, keys, policy, provision, trust, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import opened
from chargekeep_tools.home import Home
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
    identity = wire.loads(files["identity"])
    assert {key: identity[key] for key in (1, 2, 3)} == {1: "hall", 2: "bay-1", 3: 3}
    assert identity[4].hex() == home.key("root")["public_key"]
    assert identity[6] == home.site_key("hall")
    assert identity[7].hex() == kept["log_id"]
    mqtt = kept["mqtt"]
    assert wire.loads(files["network"]) == NETWORK | {5: mqtt["user"], 6: mqtt["password"]}
    for name in ("trust", "config", "tariff"):
        assert files[name] == home.current("hall", name)[None][1]
    pages = b"".join(allowlist.chunks(home, "hall", 1))
    assert pages in (files.get("allowlist.slot0"), files.get("allowlist.slot1"))
    # What only the host may know, and what only the device may know
    assert "commission.seal" not in files and len(bytes.fromhex(kept["seal_key"])) == 32
    seed = identity[5]
    everything = b"".join(p.read_bytes() for p in home.root.rglob("*") if p.is_file())
    assert seed not in everything and seed.hex().encode() not in everything


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
