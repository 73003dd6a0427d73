"""The line reader on the VM's own standard input, as on a board's USB serial line."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import asyncio
from chargekeep.health import Health
from chargekeep.reader import Console, LineReader

async def main():
    console = Console()
    reader = LineReader(console, Health())
    for _ in range(3):
        console.write(("<" + await reader.read() + ">").encode())

asyncio.run(main())
"""


def test_lines_from_standard_input():
    done = subprocess.run(
        [Path(sys.executable).parent / "micropython", "-c", PROGRAM],
        env=dict(os.environ, MICROPYPATH=f".frozen:{ROOT / 'firmware'}"),
        input=b"CK1:one\r\n\x01bad\nUID:04\nlast\n",
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == b"<CK1:one><UID:04><last>"
