"""Updates over MQTT: the charger on a simulated board, mosquitto, and the operator's tools."""

import json
import random
import threading
import time

import pytest
from update_site import CRASHES, ROOT, make, make_home

from chargekeep_tools import live, policy, provision, rollout, update
from chargekeep_tools.broker import OPERATOR, Broker
from chargekeep_tools.bundle import Bundle
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.issue import issue
from chargekeep_tools.sim.board import SimBoard
from chargekeep_tools.sim.meter import SimMeter
from chargekeep_tools.sim.station import Line

# The charger, but its meter is asked 20 times a second: writes to flash wait for its readings
QUICK = b"""
from chargekeep.metering import meter
meter.ModbusMeter.cycle_ms = 50
from chargekeep.real import main
VERSION = %d
"""


class Bay:
    """A station on a simulated board that runs version 1, and its broker."""

    def __init__(self, folder, flash=None):
        self.home = make_home(folder / "home")
        policy.tariff(self.home, "hall", 1, "EUR", 3500)
        self.broker = Broker(folder / "broker", accounts={OPERATOR: "o"})
        self.reader = Line()
        self.meter = SimMeter(link=folder / "meter.pty", wh=1234567)
        self.board = SimBoard(flash or folder / "cutting-board")
        self.version = 1

    def __enter__(self):
        self.meter.__enter__()
        self.broker.start()
        self.board.__enter__()
        wiring = json.loads((ROOT / "boards" / "UNIX" / "config.json").read_text())
        wiring["reader"]["path"] = self.reader.path
        wiring["meter"]["path"] = str(self.meter.path)
        provision.provision(
            self.home,
            self.board.port,
            "hall",
            "bay-1",
            bundle=self.bundle(),
            wiring=json.dumps(wiring).encode(),
            network=provision.network_map(broker=("127.0.0.1", self.broker.port)),
            restart=True,
        )
        self.broker.stations = self.home.stations()
        self.broker.reload()
        return self

    def __exit__(self, *_):
        self.board.__exit__(None, None, None)
        self.broker.stop()
        self.meter.__exit__(None, None, None)
        self.reader.close()

    def bundle(self, app=QUICK, **changes):
        version = changes.pop("version", self.version)
        return make(self.home, version, app.replace(b"%d", b"%d" % version), **changes)

    def next_bundle(self, *how, **changes):
        self.version += 1
        return self.bundle(*how, **changes)

    def roll_out(self, bundle, seconds=60, progress=lambda station, update: None):
        url = self.broker.url(OPERATOR)
        states = rollout.roll_out(self.home, url, bundle, ["bay-1"], seconds, progress)
        return states["bay-1"]

    def slot(self):
        return (self.board.folder / "slot").read_text()

    def present(self, text):
        self.reader.drain()
        self.reader.write(text.encode() + b"\r\n")
        return self.reader.read_line(10)


@pytest.mark.parametrize(
    "status",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"null",
        b"{}",
        b'{"update": []}',
        b'{"update": {"bundle": "%s"}}',
        b'{"update": {"bundle": "%s", "state": {}}}',
        b'{"update": {"bundle": "%s", "state": "loading", "left": "many"}}',
        b'{"update": {"bundle": "%s", "state": "refused", "error": [1]}}',
    ],
)
@pytest.mark.parametrize("retained", [False, True])
def test_no_status_of_a_station_hides_the_others(status, retained):
    bundle = Bundle(b"manifest", {2: "hall"}, {})
    told = []
    watch = rollout.Watch(bundle, ["bay-1", "bay-2"], lambda *said: told.append(said))
    watch.heard("bay-1", status.replace(b"%s", watch.id.encode()), retained)
    for _, state in told:
        assert rollout.sentence(state) and rollout.exit_code(state, {}) in Exit
    ends = {"update": {"bundle": watch.id, "state": "running"}}
    watch.heard("bay-2", json.dumps(ends).encode(), False)
    assert watch.states["bay-2"]["state"] == "running"


@pytest.fixture(scope="module")
def bay(tmp_path_factory):
    with Bay(tmp_path_factory.mktemp("rollout")) as bay:
        yield bay


def test_a_charger_loads_while_it_charges_and_starts_it_when_nobody_does(bay):
    identity = (bay.board.folder / "fs" / "identity").read_bytes()
    bundle = bay.next_bundle()
    until = int(time.time()) + 3600
    token = issue(bay.home, "hall", "ALICE", exp=until, uses=2)["text"]
    seen = []

    def progress(station, state):
        if state["state"] == "staged" and "staged" not in seen:
            # Proven, but somebody charges: it waits
            threading.Timer(1.5, lambda: seen.append((bay.slot(), bay.present(token)))).start()
        seen.append(state["state"])

    deadline = time.monotonic() + 30
    while not (bay.present(token) or "").startswith("ACCEPTED"):
        assert time.monotonic() < deadline
    state = bay.roll_out(bundle, 90, progress)
    assert state["state"] == "running" and state["version"] == bay.version, (state, seen)
    slot, answer = next(item for item in seen if isinstance(item, tuple))
    assert slot == "a" and answer.startswith("STOPPED"), seen
    assert "loading" in seen and bay.slot() == "b"
    assert (bay.board.folder / "fs" / "identity").read_bytes() == identity
    assert rollout.exit_code(state, update.EXITS) == Exit.OK
    # Once more is nothing to do
    assert bay.roll_out(bundle, 20)["state"] == "running"


def test_what_is_not_for_the_station_is_refused(bay, tmp_path):
    def code(bundle):
        state = bay.roll_out(bundle, 20)
        assert state["state"] == "refused", state
        assert bay.slot() == "b"
        return rollout.exit_code(state, update.EXITS)

    after = bay.version + 1
    assert code(bay.bundle(version=after, board="RPI_PICO")) == Exit.WRONG_BOARD
    assert code(bay.bundle(version=after, station="bay-9")) == Exit.WRONG_BOARD
    assert code(bay.bundle(version=after, abi=5)) == Exit.WRONG_ABI
    assert code(bay.bundle(version=1, text="old")) == Exit.REFUSED
    assert code(bay.bundle(text="another")) == Exit.REFUSED


class Altered(Bundle):
    """What a broker makes of a bundle that changes the byte `at` on the way."""

    at = 0

    @property
    def stream(self):
        data = bytearray(super().stream)
        data[self.at] ^= 1
        return bytes(data)


@pytest.mark.nightly
@pytest.mark.parametrize("at", [100, -1], ids=["list", "file"])
def test_what_was_altered_on_the_way_is_refused_and_fetched_again(bay, at):
    good = bay.next_bundle(more={"zz.py": b"# the last file, with " + bytes([at % 256])})
    bad, before = Altered(good.manifest, good.listed, good.files), bay.slot()
    bad.__class__.at = at
    state = bay.roll_out(bad, 60)
    assert (state["state"], state["error"]) == ("refused", 802) and bay.slot() == before
    assert rollout.exit_code(state, update.EXITS) == Exit.VERIFY
    assert bay.roll_out(good, 90)["state"] == "running"


def test_a_version_that_crashes_is_rolled_back_and_reported(bay):
    before = bay.slot()
    bundle = bay.next_bundle(CRASHES)
    state = bay.roll_out(bundle, 120)
    assert state["state"] == "rolled_back" and state["version"] == bay.version, state
    assert bay.slot() == before
    assert rollout.exit_code(state, update.EXITS) == Exit.ROLLED_BACK
    # It is not tried again, whoever asks for it
    starts = bay.board.starts
    assert bay.roll_out(bundle, 20)["state"] == "rolled_back"
    assert bay.board.starts == starts


def counters(bay):
    deadline = time.monotonic() + 60
    while True:
        try:
            return next(live.ask(bay.board.port, "diagnose"))["counters"]
        except ToolError:
            assert time.monotonic() < deadline, "it does not start"


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_power_cuts_anywhere(bay):
    chance = random.Random(7)
    identity = (bay.board.folder / "fs" / "identity").read_bytes()
    before, slots = counters(bay), []
    for _ in range(20):
        bundle = bay.next_bundle()
        rollout.offer(bay.home, bay.broker.url(OPERATOR), bundle, ["bay-1"])
        for _ in range(3):
            time.sleep(chance.uniform(0, 25))
            bay.board.power_cut()
            slots.append(bay.slot())
            bay.board.power_on()
        state = bay.roll_out(bundle, 180)
        assert state["state"] == "running" and state["version"] == bay.version, state
        after = counters(bay)
        assert all(a >= b for a, b in zip(after, before, strict=True)), (before, after)
        before = after
    assert (bay.board.folder / "fs" / "identity").read_bytes() == identity
    print({slot: slots.count(slot) for slot in sorted(set(slots))})
