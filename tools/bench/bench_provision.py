"""Provisioning and updating over a serial line, on an empty simulated board; and how much flash
the firmware takes.

The upload is timed beside `mpremote cp` of the same files over the same pseudo-terminal. A
pseudo-terminal is as fast as the two ends: the figures are round trips, not bits.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chargekeep_tools import bundle as bundles
from chargekeep_tools import keys, provision, trust, update, upload
from chargekeep_tools.bench.rp2040.filesystem import blocks
from chargekeep_tools.device import opened
from chargekeep_tools.home import Home
from chargekeep_tools.programs import firmware_root
from chargekeep_tools.sim.board import SimBoard

MPREMOTE = Path(sys.executable).parent / "mpremote"


def _ours(folder: Path, files: dict[str, bytes]) -> tuple[float, int]:
    with SimBoard(folder) as board:
        started = time.monotonic()
        with opened(board.port) as device:
            upload.hello(device)
            sent = upload.upload(device, files)
        return time.monotonic() - started, sent


def _mpremote(folder: Path, source: Path, files: dict[str, bytes]) -> float:
    for path, data in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    with SimBoard(folder) as board:
        started = time.monotonic()
        copy = ["resume", "fs", "cp", "-r", f"{source}/a", ":."]
        subprocess.run(
            [MPREMOTE, "connect", board.port, *copy], check=True, capture_output=True, timeout=300
        )
        took = time.monotonic() - started
    assert all((folder / path).read_bytes() == data for path, data in files.items())
    return took


def _flash() -> dict[str, float]:
    # What an update keeps on a Pico W: two slots, each with its list; in blocks of its littlefs
    files, _ = bundles.compile_files("RPI_PICO_W", firmware_root())
    files |= bundles.root_files("RPI_PICO_W", firmware_root())
    slot = {f"a/{path}": data for path, data in files.items()}
    slot["a/files"] = bundles.file_list(files)
    return {
        "flash_bytes_total": sum(map(len, slot.values())),
        "flash_file_list_bytes": len(slot["a/files"]),
        "flash_littlefs_bytes_of_a_slot": 4096 * blocks("RPI_PICO_W", slot),
    }


def run() -> dict[str, float]:
    """Seconds, bytes and the ratio to mpremote's cp."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        home = Home(root / "home")
        keys.create(home, "root", "root", encrypted=False)
        keys.create(home, "op", "issuer", encrypted=False)
        trust.build(home, "hall")
        first = bundles.build(home, "hall", "UNIX", version="0.0.1")
        files = {f"a/{path}": data for path, data in first.files.items()}
        ours, sent = _ours(root / "ours", files)
        theirs = _mpremote(root / "theirs", root / "files", files)
        wiring = (firmware_root() / "boards" / "UNIX" / "config.json").read_bytes()
        with SimBoard(root / "board") as board:
            started = time.monotonic()
            provision.provision(home, board.port, "hall", "bay-1", bundle=first, wiring=wiring)
            provisioned = time.monotonic() - started
            # One changed file of middle size, with a line added as a fix would
            changed = dict(first.files)
            changed["chargekeep/health.mpy"] += b"\0" * 8
            second = bundles.sign(
                home, "hall", "UNIX", changed, version=2, text="0.0.2", abi=first.listed[12]
            )
            with opened(board.port) as device:
                started = time.monotonic()
                result = update.stage(device, second)
                staged = time.monotonic() - started
        return _flash() | {
            "provision_s": round(provisioned, 2),
            "upload_s": round(ours, 2),
            "upload_bytes": sum(map(len, files.values())),
            "upload_bytes_sent": sent,
            "upload_mpremote_cp_s": round(theirs, 2),
            "upload_vs_mpremote_cp_ratio": round(theirs / ours, 2),
            "update_stage_s": round(staged, 2),
            "update_bytes_sent_for_one_changed_file": result["bytes"],
        }


if __name__ == "__main__":
    for name, value in run().items():
        print(name, value)
