"""Runs the benchmarks and writes build/bench.json: one flat object from metric name to number.

    run.py [name ...]    only bench_<name>.py; metrics of the others are kept from the last run

Each bench_*.py beside this file has `run() -> dict[str, float]`. What is compared is measured in
the same run.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent.parent / "build" / "bench.json"


def main(names: list[str]) -> int:
    paths = [HERE / f"bench_{name}.py" for name in names] or sorted(HERE.glob("bench_*.py"))
    metrics = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for path in paths:
        started = time.monotonic()
        print(f"== {path.stem}", flush=True)
        measured = import_module(path.stem).run()
        for name, value in sorted(measured.items()):
            print(f"{name:48} {value:>14,.6g}")
        metrics.update(measured)
        print(f"   {time.monotonic() - started:.1f} s", flush=True)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    print(f"{len(metrics)} metrics in {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
