"""Runs `mp_*.py` files on MicroPython.

Every `def test_...()` of such a file is one test in a fresh VM with the heap of a single module
(192k; a line `# heap: 320k` changes it). A file with a line `# also: cpython` is collected a
second time for CPython, where `tests/shim` stands in for the module `micropython`. A line
`# nightly: test_name` marks a long test. A test skips itself by raising `mptest.SkipTest`.
Long variants read the environment variable CHARGEKEEP_NIGHTLY ("1" or "0").
"""

import atexit
import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from chargekeep_tools.codes import ToolError
from chargekeep_tools.compiler import compile_module

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
MICROPYTHON = Path(sys.executable).parent / "micropython"
FIRMWARE = ROOT / "firmware"
MP_PATHS = [FIRMWARE, ROOT / "boards" / "UNIX", ROOT / "boards", TESTS]

_TEST = re.compile(r"^(?:async )?def (test_\w+)\(", re.M)
_HEAP = re.compile(r"^# heap: (\d+k)$", re.M)
_ALSO = re.compile(r"^# also: cpython$", re.M)
_NIGHTLY = re.compile(r"^# nightly: (test_\w+)$", re.M)
SKIPPED = 77


@pytest.fixture
def host(tmp_path):
    """A reconciler without a broker."""
    from reconcile_host import Host

    return Host(tmp_path)


@pytest.fixture
def replica(host):
    """A station that the host knows."""
    from charger import SITE

    from chargekeep_tools.sim.replica import Replica

    return host.add(Replica(SITE, "cp-1"))


@functools.cache
def compiled():
    """Folder of the firmware as a board loads it, and of what tests share: to compile it would
    take the tests' heap."""
    folder = Path(tempfile.mkdtemp(prefix="chargekeep-mpy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for root, pattern in ((FIRMWARE, "chargekeep/**/*.py"), (TESTS, "*.py")):
        for source in root.glob(pattern):
            if source.name.endswith("_thumb.py") or source.name.startswith(("test_", "mp_")):
                continue  # of another processor, or not imported
            module = folder / source.relative_to(root).with_suffix(".mpy")
            module.parent.mkdir(parents=True, exist_ok=True)
            name = str(source.relative_to(ROOT))
            with contextlib.suppress(ToolError):  # not all of the tests is for MicroPython
                module.write_bytes(compile_module(source.read_text(), name, optimize=0))
    return folder


def pytest_configure(config):
    config.addinivalue_line("markers", "micropython: runs in a MicroPython VM")


def pytest_addoption(parser):
    parser.addoption("--nightly", action="store_true", help="run the long variants as well")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--nightly"):
        return
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.skip(reason="long: make nightly"))


def pytest_pycollect_makemodule(module_path, parent):
    if module_path.name.startswith("mp_"):
        return MpFile.from_parent(parent, path=module_path)


class MpFile(pytest.File):
    def collect(self):
        source = self.path.read_text()
        heap = _HEAP.search(source)
        interpreters = [("vm", heap.group(1) if heap else "192k")]
        if _ALSO.search(source):
            interpreters.append(("cpython", ""))
        nightly = set(_NIGHTLY.findall(source))
        for name in _TEST.findall(source):
            for interpreter, size in interpreters:
                item = MpItem.from_parent(self, name=f"{name}[{interpreter}]")
                item.test, item.interpreter, item.heap = name, interpreter, size
                if name in nightly:
                    item.add_marker("nightly")
                yield item


class MpItem(pytest.Item):
    def runtest(self):
        paths = list(map(str, MP_PATHS))
        env = dict(os.environ, CHARGEKEEP_NIGHTLY=str(int(self.config.getoption("--nightly"))))
        if self.interpreter == "vm":
            command = [MICROPYTHON, "-X", f"heapsize={self.heap}"]
            env["MICROPYPATH"] = ":".join([".frozen", str(compiled()), *paths])
        else:
            command = [sys.executable]
            env["PYTHONPATH"] = ":".join([*paths, str(TESTS / "shim")])
        command += [TESTS / "run_mp.py", self.path, self.test]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode == SKIPPED:
            pytest.skip(done.stdout.strip().splitlines()[-1])
        if done.returncode:
            raise MpFailure(done.stdout + done.stderr)
        self.add_report_section("call", "stdout", done.stdout)

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, MpFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, self.name


class MpFailure(Exception):
    """The VM's output of a failed test."""
