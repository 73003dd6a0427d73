"""Metering and transactions on the unix VM with 320k of heap, in simulated time.

The day with three meters and 200 transactions is shortened to CHARGEKEEP_BENCH_HOURS (3 unless
set; 24 is the whole of it).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run() -> dict[str, float]:
    """Units: percent, bytes, Wh, s, ms and counts, as the names say."""
    paths = [".frozen", *(str(ROOT / part) for part in ("firmware", "tests"))]
    done = subprocess.run(
        [
            Path(sys.executable).parent / "micropython",
            *("-X", "heapsize=320k"),
            ROOT / "tools" / "bench" / "vm_metering.py",
            os.environ.get("CHARGEKEEP_BENCH_HOURS", "3"),
        ],
        env=dict(os.environ, MICROPYPATH=":".join(paths)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(done.stdout)
