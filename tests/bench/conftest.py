"""Board tests: the same on every kind of board (chargekeep_tools.bench).

pytest tests/bench                              the unix VM, directly and behind serial ports
CHARGEKEEP_RP2_IMAGE=RPI_PICO.uf2 CHARGEKEEP_RP2_W_IMAGE=RPI_PICO_W.uf2 pytest tests/bench
                                                ... and the emulated boards
pytest tests/bench --port /dev/ttyACM0 --board RPI_PICO [--power-cmd ./switch]
                   [--meter-port /dev/ttyUSB0] [--reader-port /dev/ttyUSB1]
                                                ... and a real one
"""

import time

import pytest
from serial_rig import Rig

from chargekeep_tools import issue, keys, trust
from chargekeep_tools.bench import Unavailable, firmware, open_board
from chargekeep_tools.bench.board import IMAGES
from chargekeep_tools.bench.serialport import SerialBoard
from chargekeep_tools.home import Home

EMULATED = list(IMAGES)
SITE, STATION = "bench", "pole-1"
ADAPTERS = {
    "name": "--board",
    "power_command": "--power-cmd",
    "meter_port": "--meter-port",
    "reader_port": "--reader-port",
}
# Run on a port each time; the others do at night
ON_PORT = ("test_a_transaction_outlives_a_power_cut", "test_the_repl_runs_code_and_keeps_files")


def pytest_addoption(parser):
    group = parser.getgroup("a real board")
    group.addoption("--port", help="serial port of a board that may be erased")
    group.addoption("--board", default="RPI_PICO", help="its name, as in boards/ [RPI_PICO]")
    group.addoption("--power-cmd", help="switches its power: run with on or off at its end")
    group.addoption("--meter-port", help="serial adapter in its meter's place")
    group.addoption("--reader-port", help="serial adapter in its reader's place")


def pytest_generate_tests(metafunc):
    if "board" in metafunc.fixturenames:
        port = metafunc.config.getoption("--port", default=None)
        marks = [] if metafunc.function.__name__ in ON_PORT else [pytest.mark.nightly]
        targets = [
            "unix",
            pytest.param("serial", marks=marks),
            *EMULATED,
            *([port] if port else []),
        ]
        metafunc.parametrize("board", targets, indirect=True)
    if "emulated" in metafunc.fixturenames:
        metafunc.parametrize("emulated", EMULATED, indirect=True)


@pytest.fixture
def board(request, tmp_path):
    """A board without firmware, off."""
    target, option = request.param, request.config.getoption
    if target == "serial":
        yield from behind_a_port(tmp_path)
        return
    try:
        ports = {name: option(flag) for name, flag in ADAPTERS.items()}
        opened = open_board(target, tmp_path / "station", **ports)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with opened:
        yield opened


def behind_a_port(tmp_path):
    rig = Rig(tmp_path / "rig")
    ports = rig.power_command, rig.meter_port, rig.reader_port
    with SerialBoard(rig.port, "UNIX", *ports) as opened:
        yield opened
    rig.close()


@pytest.fixture
def emulated(request, tmp_path):
    """An emulated board without firmware, off."""
    try:
        opened = open_board(request.param, tmp_path)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with opened:
        yield opened


class Charger:
    """A board that is commissioned as a station, off; and the operator's home directory."""

    def __init__(self, board, home, **how):
        self.board = board
        self.home = home
        if board.needs_firmware:
            board.install(firmware.files(board.name))
        self.record = board.commission(home, SITE, STATION, **how)
        board.power_cut()

    def start(self):
        """Power on; until the meter was read."""
        board = self.board
        board.power_on()
        assert board.run(30, lambda: board.status.get("register_wh") is not None), board.console

    def token(self, **terms):
        expires = int(time.time()) + 30 * 86400
        return issue.issue(self.home, SITE, "ALICE", exp=expires, **terms)["text"]


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    trust.build(home, SITE)
    return home


@pytest.fixture
def points(request, emulated):
    """`points(n)`: of `n` power cuts, how many to make here and now. The images differ in their
    drivers, not in what is cut, and the one without a radio runs much faster."""
    few = not request.config.getoption("--nightly")
    return lambda n: 1 if few else n if emulated.radio is None else n // 4


@pytest.fixture
def charger(board, home):
    return Charger(board, home)


@pytest.fixture
def commission(home):
    """`commission(board, **how)` makes a board a `Charger`."""
    return lambda board, **how: Charger(board, home, **how)
