"""Board tests: the same on every kind of board (chargekeep_tools.bench).

pytest tests/bench                              the unix VM
CHARGEKEEP_RP2_IMAGE=RPI_PICO.uf2 CHARGEKEEP_RP2_W_IMAGE=RPI_PICO_W.uf2 pytest tests/bench
                                                ... and the emulated boards
pytest tests/bench --port /dev/ttyACM0 [--power-cmd ./switch] [--meter-port /dev/ttyUSB0]
                                                ... and a real one
"""

import pytest

from chargekeep_tools.bench import Unavailable, open_board
from chargekeep_tools.bench.board import IMAGES
from chargekeep_tools.bench.serialport import SerialBoard

EMULATED = list(IMAGES)
ADAPTERS = ("power-cmd", "meter-port", "reader-port")


def pytest_addoption(parser):
    group = parser.getgroup("a real board")
    group.addoption("--port", help="serial port of a board that may be erased")
    group.addoption("--power-cmd", help="switches its power: run with on or off at its end")
    group.addoption("--meter-port", help="serial adapter in its meter's place")
    group.addoption("--reader-port", help="serial adapter in its reader's place")


def pytest_generate_tests(metafunc):
    if "board" in metafunc.fixturenames:
        port = metafunc.config.getoption("--port", default=None)
        metafunc.parametrize(
            "board", ["unix", *EMULATED, *([port] if port else [])], indirect=True
        )
    if "emulated" in metafunc.fixturenames:
        metafunc.parametrize("emulated", EMULATED, indirect=True)


@pytest.fixture
def board(request, tmp_path):
    """A board without firmware, off."""
    target, option = request.param, request.config.getoption
    try:
        if target == option("--port", default=None):
            opened = SerialBoard(target, *[option(f"--{name}") for name in ADAPTERS])
        else:
            opened = open_board(target, tmp_path / "station")
    except Unavailable as reason:
        pytest.skip(str(reason))
    with opened:
        yield opened


@pytest.fixture
def emulated(request, tmp_path):
    """An emulated board without firmware, off."""
    try:
        opened = open_board(request.param, tmp_path)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with opened:
        yield opened
