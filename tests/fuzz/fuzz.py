"""Coverage-guided fuzzing of one parser with atheris (libFuzzer).

    fuzz.py TARGET [libFuzzer options] [corpus folders]

A crash is an exception that is no ChargekeepError, or `Accepted`; libFuzzer then exits with 77 and
leaves the input beside it.
"""

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("firmware", "tests", "tests/shim", "tests/fuzz")]

import micropython  # noqa: E402, F401

with atheris.instrument_imports(include=["chargekeep"]):
    import targets


def main():
    name = sys.argv.pop(1)
    if name not in targets.NAMES:
        raise SystemExit(f"targets: {' '.join(targets.NAMES)}")

    def one_input(data):
        targets.run(name, data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
