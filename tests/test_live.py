"""The charger itself on a simulated board, asked and updated over its serial line as it runs."""

import json
import threading
import time

import pytest

from chargekeep_tools import bundle as bundles
from chargekeep_tools import keys, live, policy, provision, trust, update
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import opened
from chargekeep_tools.home import Home
from chargekeep_tools.programs import firmware_root
from chargekeep_tools.sim.board import SimBoard
from chargekeep_tools.sim.meter import SimMeter
from chargekeep_tools.sim.station import Line


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "op", "issuer", encrypted=False)
    trust.build(home, "hall")
    policy.tariff(home, "hall", 1, "EUR", 3500)
    return home


def ask(port, name, *numbers):
    deadline = time.monotonic() + 30
    while True:
        try:
            return next(live.ask(port, name, *numbers))
        except ToolError as error:
            if "no charger" not in str(error) or time.monotonic() > deadline:
                raise


def test_a_running_charger_answers_and_is_updated(home, tmp_path):
    wiring = json.loads((firmware_root() / "boards" / "UNIX" / "config.json").read_text())
    reader = Line()
    wiring["reader"]["path"] = reader.path
    link = tmp_path / "meter.pty"
    wiring["meter"]["path"] = str(link)
    first = bundles.build(home, "hall", "UNIX", version="0.0.1")
    with SimMeter(link=link, wh=1234567), SimBoard(tmp_path / "board") as board:
        record = provision.provision(
            home,
            board.port,
            "hall",
            "bay-1",
            bundle=first,
            wiring=json.dumps(wiring).encode(),
            test=True,
            restart=True,
        )
        assert record["self_test"]["meter"]["register_wh"] == 1234567
        status = ask(board.port, "status")
        assert status["station"] == "bay-1" and status["versions"]["tariff"] == 1
        boots = status["boot"]
        deadline = time.monotonic() + 20
        while ask(board.port, "meter")["register_wh"] != 1234567:
            assert time.monotonic() < deadline
        records = list(live.logs(board.port, 1))
        assert {1, 8} <= {found["type"] for found in records}  # boot, objects accepted
        assert [r["seq"] for r in records] == sorted({r["seq"] for r in records})
        newest = list(live.logs(board.port))
        assert newest[-1]["seq"] >= records[-1]["seq"]
        found = ask(board.port, "diagnose")
        assert found["log"]["sectors"] == 64 and found["counters"][10] == 1  # version floor
        with pytest.raises(ToolError) as caught:
            next(live.ask(board.port, "nonsense"))
        assert caught.value.exit_code == Exit.BUSY
        # Still the same boot: nothing that was asked stopped it
        assert ask(board.port, "status")["boot"] == boots

        second = bundles.sign(home, "hall", "UNIX", first.files, version=2, text="0.0.2")
        assert live.make_quiet(board.port)
        with opened(board.port) as device:
            result = update.stage(device, second)
            assert result["files"] == 0  # only the version differs
            update.restart(device)
        deadline = time.monotonic() + 30
        while ask(board.port, "diagnose")["counters"][10] != 2:
            assert time.monotonic() < deadline
        assert (board.folder / "slot").read_text() == "b"
    reader.close()


def test_a_charger_that_charges_is_not_disturbed(tmp_path):
    line = Line()
    done = threading.Event()

    def charger():
        while not done.is_set():
            if line.read_line(0.2) == "?service":
                line.write(b'{"re": "service", "error": "charging"}\r\n')

    thread = threading.Thread(target=charger)
    thread.start()
    try:
        with pytest.raises(ToolError) as caught:
            live.make_quiet(line.path)
        assert caught.value.exit_code == Exit.BUSY and "wait" in caught.value.hint
    finally:
        done.set()
        thread.join()
        line.close()


def test_a_silent_port_says_so():
    line = Line()
    try:
        assert live.make_quiet(line.path) is False
        with pytest.raises(ToolError) as caught:
            next(live.ask(line.path, "status", timeout=0.3))
        assert caught.value.exit_code == Exit.BUSY
    finally:
        line.close()
    with pytest.raises(ToolError) as caught:
        next(live.ask("/dev/nothing", "status"))
    assert caught.value.exit_code == Exit.NO_DEVICE
