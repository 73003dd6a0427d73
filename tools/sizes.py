"""Compiles every firmware module for every architecture and keeps the size table of the README.

sizes.py          print the table: .mpy bytes for armv6m, before modules are joined to ship; the
                  other architectures must compile
sizes.py --write  put the table into README.md
sizes.py --check  fail when a module grew past what the README publishes, by more than 2%
"""

import re
import sys
from pathlib import Path

from chargekeep_tools.compiler import compile_firmware

ROOT = Path(__file__).resolve().parent.parent
FIRMWARE = ROOT / "firmware"
README = ROOT / "README.md"
ARCHITECTURES = ("xtensawin", "rv32imc", "armv6m")
SLACK = 1.02
_BEGIN, _END = "<!-- sizes -->", "<!-- /sizes -->"
_ROW = re.compile(r"^\| `([\w/.]+)` \| ([\d,]+) \|$", re.M)


def measure() -> dict[str, int]:
    """Bytes for armv6m by module; compiles for the other architectures on the way."""
    sources = {
        str(path.relative_to(FIRMWARE)): path
        for path in sorted((FIRMWARE / "chargekeep").rglob("*.py"))
    }
    portable = {name: path for name, path in sources.items() if not name.endswith("_thumb.py")}
    for architecture in ARCHITECTURES:
        taken = sources if architecture == "armv6m" else portable
        compiled = compile_firmware(taken, architecture, join=False)
    return {name.removeprefix("chargekeep/"): len(mpy) for name, mpy in sorted(compiled.items())}


def table(sizes: dict[str, int]) -> str:
    rows = [f"| `{name}` | {size:,} |" for name, size in sizes.items()]
    rows.append(f"| `total` | {sum(sizes.values()):,} |")
    return "\n".join(["| module | .mpy bytes |", "| --- | ---: |", *rows])


def main() -> int:
    sizes = measure()
    text = README.read_text()
    part = text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]
    if "--write" in sys.argv:
        README.write_text(text.replace(part, f"\n{table(sizes)}\n"))
        return 0
    if "--check" not in sys.argv:
        print(table(sizes))
        return 0
    published = {name: int(size.replace(",", "")) for name, size in _ROW.findall(part)}
    grown = [
        f"{name}: {size} bytes, {published.get(name, 0)} published"
        for name, size in sizes.items()
        if size > published.get(name, 0) * SLACK
    ]
    print(f"{len(sizes)} modules, {sum(sizes.values()):,} bytes of .mpy for armv6m")
    if grown:
        print("larger than README.md says (make sizes):", *grown, sep="\n  ")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
