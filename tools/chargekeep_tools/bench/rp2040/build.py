"""Builds the emulator core on first use: rp2040py from its source archive, with our run loop.

The published wheel is built for Python's limited API and runs a quarter as fast, and a compiled
loop needs the core's C types. The result lies in `build/emulator/` of the project, or in the
folder that CHARGEKEEP_EMULATOR names. Needs a C compiler, and once the package registry.
"""

import fcntl
import hashlib
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from chargekeep_tools.programs import firmware_root

VERSION = "0.3.6"
_LOOP = Path(__file__).with_name("_loop.pyx")
_LIMITED_API = "USE_LIMITED_API = ("


class EmulatorUnavailable(Exception):
    """The emulator cannot be built or loaded here; the message says why."""


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EmulatorUnavailable(f"{' '.join(arguments)}: {done.stderr.strip()[-500:]}")


def _build(site: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        _pip(
            "download", "--no-deps", "--no-binary", ":all:", "-d", scratch, f"rp2040py=={VERSION}"
        )
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        source = Path(scratch) / f"rp2040py-{VERSION}"
        setup = source / "setup.py"
        text = setup.read_text()
        if text.count(_LIMITED_API) != 1:
            raise EmulatorUnavailable(f"rp2040py {VERSION}: setup.py is not as expected")
        setup.write_text(text.replace(_LIMITED_API, "USE_LIMITED_API = False and ("))
        native = source / "src" / "rp2040py" / "native"
        (native / "_chargekeep_loop.pyx").write_bytes(_LOOP.read_bytes())
        # A call for each byte of code that is fetched: let the compiler inline them.
        inline = (native / "_bit.pyx").read_text().replace("cpdef inline", "cdef inline")
        (native / "_inline_bit.pxd").write_text(inline)
        for name in ("_cortex_m0_core.pyx", "_rp2040.pyx"):
            text = (native / name).read_text()
            (native / name).write_text(text.replace("_bit cimport", "_inline_bit cimport"))
        _pip("install", "--no-deps", "--target", str(site), str(source))
    if not list(site.glob("rp2040py/native/_chargekeep_loop.*.so")):
        raise EmulatorUnavailable("rp2040py was installed without its compiled modules: no cc?")


def load() -> None:
    """Make `import rp2040py` find the fast build, building it (a minute) where it is missing."""
    folder = os.environ.get("CHARGEKEEP_EMULATOR")
    root = Path(folder) if folder else firmware_root() / "build" / "emulator"
    recipe = hashlib.sha256(_LOOP.read_bytes() + f"{VERSION} {sys.version}".encode())
    site = root / recipe.hexdigest()[:12]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:  # several test processes may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (site / "complete").exists():
            _build(site)
            (site / "complete").touch()
    if str(site) not in sys.path:
        sys.path.insert(0, str(site))
        importlib.invalidate_caches()
        for name in [n for n in sys.modules if n.split(".")[0] == "rp2040py"]:
            del sys.modules[name]
