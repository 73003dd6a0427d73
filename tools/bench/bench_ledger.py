"""The ledger beside littlefs on the same simulated NOR: wear, writes, mount, damage, time."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = (".frozen", "firmware", "boards/UNIX", "tests")
CYCLES = 100_000  # of a sector, as the data sheets of serial NOR promise
MINUTES_A_YEAR = 525_960
COUNT = 100_000  # records of the wear measurement


def run() -> dict[str, float]:
    """Every metric but the times is exact: the VM counts what reaches the simulated flash."""
    vm = Path(sys.executable).parent / "micropython"
    path = ":".join(p if p[0] == "." else str(ROOT / p) for p in PATHS)
    done = subprocess.run(
        [vm, "-X", "heapsize=4m", ROOT / "tools/bench/vm_ledger.py", str(COUNT)],
        env=dict(os.environ, MICROPYPATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    vm_says = json.loads(done.stdout.splitlines()[-1])
    # The hottest sector is worn out first. A record a minute, each programmed on its own.
    erases_of_hottest = vm_says["erases_single"] * vm_says["erase_spread"] / 64
    return {
        "ledger_erases_per_record": vm_says["erases_single"],
        "ledger_wa_single": vm_says["wa_single"],
        "ledger_wa_batched": vm_says["wa_batched"],
        "ledger_page_programs_per_record": vm_says["programs_single"],
        "ledger_page_programs_per_record_batched": vm_says["programs_batched"],
        "ledger_erase_spread": vm_says["erase_max_over_min"],
        "ledger_mount_bytes": vm_says["mount_bytes"],
        "ledger_mount_bytes_after_cut": vm_says["mount_bytes_after_cut"],
        "ledger_flip_silent": vm_says["flip_silent"],
        "ledger_flip_lost": vm_says["flip_lost"],
        "ledger_flip_tried": vm_says["flip_tried"],
        "ledger_years_at_1_per_min_256k": CYCLES / erases_of_hottest / MINUTES_A_YEAR,
        "ledger_append_heap_bytes": vm_says["append_heap"],
        "ledger_append_us": vm_says["time_single"],
        "ledger_append_vs_littlefs_time_ratio": vm_says["time_single"] / vm_says["lfs_time"],
        "ledger_littlefs_erases_per_record": vm_says["lfs_erases"],
        "ledger_littlefs_wa": vm_says["lfs_wa"],
        "ledger_littlefs_page_programs_per_record": vm_says["lfs_programs"],
        "ledger_littlefs_erase_spread": vm_says["lfs_spread"],
        "ledger_littlefs_mount_bytes": vm_says["lfs_mount_bytes"],
        "ledger_littlefs_flip_silent_percent": vm_says["lfs_flip_silent_percent"],
        "ledger_erases_vs_littlefs": vm_says["lfs_erases"] / vm_says["erases_single"],
    }
