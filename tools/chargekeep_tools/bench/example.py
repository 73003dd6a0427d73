"""A bench of your own, in one page: what a board has to pass before it goes into a charger.

    python -m chargekeep_tools.bench.example unix
    CHARGEKEEP_RP2_IMAGE=RPI_PICO.uf2 python -m chargekeep_tools.bench.example RPI_PICO
    python -m chargekeep_tools.bench.example /dev/ttyACM0 name=RPI_PICO_W meter_port=/dev/ttyUSB0

Commissions the board with throw-away keys, charges, cuts the power while it charges, and compares
what the station counted with what its meter did. Copy it and add what your installation needs.
"""

import sys
import tempfile
import time
from pathlib import Path

from chargekeep_tools import issue, keys, trust
from chargekeep_tools.bench import Board, firmware, open_board
from chargekeep_tools.home import Home

SITE, STATION, DRIVER = "bench", "under-test", "DE-8AA-123456-7"


def operator(folder: Path) -> Home:
    """An operator's home directory with keys that are worth nothing."""
    home = Home(folder)
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    trust.build(home, SITE)
    return home


def power_on(board: Board) -> None:
    began = board.now_s
    board.power_on()
    if not board.run(30, lambda: board.status.get("register_wh") is not None):
        raise SystemExit(f"no meter reading after 30 s:\n{board.console}")
    print(f"ready after {board.now_s - began:.1f} s, {board.status['heap_free']} bytes free")


def check(board: Board, home: Home) -> None:
    if board.needs_firmware:
        board.install(firmware.files(board.name))
    record = board.commission(home, SITE, STATION)
    print(f"commissioned: kid {record['kid']}, {record['ledger_blocks']} ledger blocks")
    board.power_cut()
    power_on(board)
    expires = int(time.time()) + 3600
    token = issue.issue(home, SITE, DRIVER, exp=expires)["text"]
    print(f"token presented: {board.present(token)}")
    board.run(10, lambda: board.permits)
    board.run(3)
    board.power_cut()
    print("power cut while charging")
    power_on(board)
    board.run(10, lambda: board.permits)
    board.run(2)
    print(f"token presented: {board.present(token)}")
    board.run(10, lambda: board.status["evse"] == "idle")
    told, true = board.status["register_wh"], board.meter.wh
    print(f"register {told} Wh as the station knows it, {true:.1f} Wh at the meter")
    if abs(told - true) > 1:
        raise SystemExit("energy is missing")


def main(target: str, *words: str) -> None:
    ports = dict(word.split("=", 1) for word in words)  # what SerialBoard takes
    with tempfile.TemporaryDirectory() as scratch:
        home = operator(Path(scratch) / "operator")
        with open_board(target, Path(scratch) / STATION, **ports) as board:
            check(board, home)


if __name__ == "__main__":
    main(*sys.argv[1:])
