"""What the firmware costs on real MicroPython images, in the time and memory of the emulated chip.

Measures only the images that CHARGEKEEP_RP2_IMAGE and CHARGEKEEP_RP2_W_IMAGE name; metrics of the
second end in _w.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from chargekeep_tools import bundle as bundles
from chargekeep_tools import issue, keys, provision, trust
from chargekeep_tools.bench import Unavailable, firmware, open_board
from chargekeep_tools.bench.emulated import EmulatedBoard
from chargekeep_tools.bench.rp2040 import filesystem
from chargekeep_tools.device import Device
from chargekeep_tools.home import Home

VERIFY = """
import gc, time
from chargekeep.credential import ed25519
seed, message = bytes(32), b"a token of about this length, as they come" * 3
key, signature = ed25519.public_key(seed), ed25519.sign(seed, message)
assert ed25519.verify(key, message, signature)
gc.collect()
began = time.ticks_us()
assert ed25519.verify(key, message, signature)
print(time.ticks_diff(time.ticks_us(), began))
began = time.ticks_us()
ed25519.sign(seed, message)
print(time.ticks_diff(time.ticks_us(), began))
"""


ROOT = Path(__file__).resolve().parents[2]
MOUNT = """
import time
from chargekeep.board import open_board
from chargekeep.ledger.ring import Ledger
from chargekeep.transaction.recall import Memory
class Store:
    def read(self, name):
        return bytes.fromhex("%s")
ledger = Ledger(open_board().ledger_device(), None, None, Store())
began = time.ticks_us()
ledger.mount()
print(time.ticks_diff(time.ticks_us(), began), ledger.free_slots)
fed = [time.ticks_us()]
def alive():
    fed.append(time.ticks_us())
assert Memory(ledger, 1, alive).transaction.seq_no > 3000
alive()
print(time.ticks_diff(fed[-1], fed[0]))
print(max(time.ticks_diff(b, a) for a, b in zip(fed, fed[1:])))
"""


def full_ring_us(board: EmulatedBoard, scratch: Path) -> tuple[int, int, int]:
    """Times to mount 64 full sectors and to recall the transaction in them, and the longest in
    between without feeding the watchdog. The sectors are gone again when this returns."""
    vm = Path(sys.executable).parent / "micropython"
    path = ":".join([".frozen", *(str(ROOT / p) for p in ("firmware", "boards/UNIX", "tests"))])
    key = subprocess.run(
        [vm, "-X", "heapsize=2m", ROOT / "tools/bench/vm_full_ring.py", scratch / "ring"],
        env=dict(os.environ, MICROPYPATH=path),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    ring = (scratch / "ring").read_bytes()
    end = filesystem.start(board.name)
    before, after = board.flash[: end - len(ring)], board.flash[end:]
    board.flash = before + ring + after
    mount_us, free_slots, recall_us, unfed_us = map(int, board.exec(MOUNT % key, 200).split())
    assert free_slots == 0
    board.power_cut()
    board.flash = before + b"\xff" * len(ring) + board.flash[end:]
    return mount_us, recall_us, unfed_us


def measure(board: EmulatedBoard, home: Home) -> dict[str, float]:
    files = firmware.files(board.name)
    board.install(files)
    mount_us, recall_us, unfed_us = full_ring_us(board, home.root.parent)
    verify_us, sign_us = map(int, board.exec(VERIFY).split())
    board.power_cut()
    board.flash = b""  # from an image without a file to a station that has tried its parts
    bundle = bundles.build(home, "bench", board.name, version="0.0.1")
    board.power_on(app=False)
    began = board.now_s
    device = Device(board.transport(), board.name)
    provision.provision_on(home, device, "bench", board.name, bundle=bundle, test=True)
    provision_s = board.now_s - began
    board.power_cut()

    began = board.now_s
    board.power_on()
    if not board.run(60, lambda: bool(board.status.get("register_wh"))):
        raise TimeoutError(f"{board.name} does not start: {board.console}")
    ready_s = board.now_s - began
    board.run(10)
    heap_idle = board.status["heap_free"]

    token = issue.issue(home, "bench", "ALICE", exp=int(time.time()) + 86400)["text"]
    began = board.now_s
    answer = board.present(token)
    if not answer.startswith("ACCEPTED"):
        raise ValueError(answer)
    board.run(5, lambda: board.permits)
    permit_s = board.now_s - began
    board.run(20)
    return {
        "boot_to_ready_ms": 1000 * ready_s,
        "ed25519_sign_ms_on_image": sign_us / 1000,
        "ed25519_verify_ms_on_image": verify_us / 1000,
        "flash_bytes_total": sum(map(len, files.values())),
        "heap_free_after_boot_bytes": heap_idle,
        "heap_free_charging_bytes": board.status["heap_free"],
        "ledger_mount_full_ms_on_image": mount_us / 1000,
        "ledger_recall_full_ms_on_image": recall_us / 1000,
        "ledger_recall_unfed_ms_on_image": unfed_us / 1000,
        "provision_emulated_s": provision_s,
        "token_to_permit_ms_on_image": 1000 * permit_s,
    }


def run() -> dict[str, Any]:
    found: dict[str, float] = {}
    for name, suffix in (("RPI_PICO", ""), ("RPI_PICO_W", "_w")):
        with tempfile.TemporaryDirectory() as scratch:
            home = Home(Path(scratch) / "home")
            keys.create(home, "root", "root", encrypted=False)
            keys.create(home, "issuer", "issuer", encrypted=False)
            trust.build(home, "bench")
            try:
                with open_board(name, Path(scratch)) as board:
                    assert isinstance(board, EmulatedBoard)
                    metrics = measure(board, home)
            except Unavailable as reason:
                print(f"{name}: {reason}")
                continue
        found |= {metric + suffix: value for metric, value in metrics.items()}
    return found
