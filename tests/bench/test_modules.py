"""Tests of single modules, which run in the unix VM anyway, on a real image: 32-bit integers,
another garbage collector's luck, real machine code."""

import re
from pathlib import Path

import pytest

from chargekeep_tools import bundle
from chargekeep_tools.compiler import compile_module
from chargekeep_tools.programs import firmware_root

TESTS = Path(__file__).resolve().parent.parent
MODULES = ["cbor", "errors", "health", "identity", "sha512", "store", "timebase", "ed25519"]
# What takes minutes of the board's time, or a clock that is set
LEFT_OUT = {
    "timebase": ("test_both_epochs",),
    "identity": ("test_every_damaged_byte_is_refused_or_changes_nothing_but_a_value",),
    "store": ("test_every_power_cut_leaves_old_or_new",),
}
CALL = """
import mptest, {module}
try:
    result = {module}.{test}()
    if result is not None:
        import asyncio
        asyncio.run(result)
except mptest.SkipTest:
    pass
"""


def with_imports(module):
    """A module of tests/ and those of tests/ that it imports: name to path."""
    found = {}
    missing = [module, "mptest"]
    while missing:
        name = missing.pop()
        path = TESTS / f"{name}.py"
        if name not in found and path.exists():
            found[name] = path
            missing += re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.M)
    return found


def test_the_repl_runs_code_and_keeps_files(board):
    assert board.exec("print(6 * 7)") == "42\n"
    data = bytes(range(256)) * 3
    board.put("kept", data)
    board.fresh()
    assert board.get("kept") == data
    board.power_cut()
    assert board.get("kept") == data


@pytest.mark.parametrize("name", MODULES)
def test_module(board, name):
    module, architecture = f"mp_{name}", board.architecture
    if board.name == "UNIX":
        pytest.skip("runs in the unix VM with all of tests/mp_*.py")
    sources = dict(bundle.sources(board.name, firmware_root()))
    sources |= {f"{stem}.py": path for stem, path in with_imports(module).items()}
    files = {
        path.removesuffix(".py") + ".mpy": compile_module(
            source.read_text(), path, architecture, 0
        )
        for path, source in sources.items()
        if architecture == "armv6m" or not path.endswith("_thumb.py")
    }
    board.install(files | {"tmp/empty": b""})  # tests keep their files in /tmp
    tests = re.findall(
        r"^(?:async )?def (test_\w+)\(\)", (TESTS / f"{module}.py").read_text(), re.M
    )
    for test in tests:
        if test not in LEFT_OUT.get(name, ()):
            board.fresh()
            board.exec(CALL.format(module=module, test=test))
