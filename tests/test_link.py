"""Linked firmware does what its sources say, in fewer modules, under the names others know."""

import subprocess
import sys

import pytest

from chargekeep_tools import names
from chargekeep_tools.compiler import compile_firmware
from chargekeep_tools.link import LinkError, link
from chargekeep_tools.programs import program

SOURCES = {
    "main.py": "from p import app\nprint(app.main())\n",
    "p/__init__.py": '__version__ = "1.2.3"\n',
    "p/codes.py": "FULL = 501\n_state = []\n\n\ndef note(x):\n    global _count\n"
    "    _count = _count + 1\n    _state.append(x)\n    return _count\n\n\n_count = 0\n",
    "p/rare.py": "from p.low.base import Base\nfrom p import codes\n\n\n"
    "def rare():\n    return Base(codes.FULL).value, codes.note(0)\n",
    "p/low/base.py": """
from p import codes
from p.codes import note as remember

_state = 7
LIMIT = _state + 1


class Base:
    note = "a class's own"

    def __init__(self, value, limit=LIMIT):
        inf = nan = pi = tau = sin = cos = tan = 1  # as others are called once linked
        self.value = value + sum(codes for codes in range(value % 5)) + limit
        self.times = [remember(value) + inf + nan + pi + tau + sin + cos + tan]

    def _a(self):
        return self.note, _state
""",
    "p/low/child.py": """
import time as clock
from p import codes
from p.low import base


@staticmethod
def _state(_b):
    return lambda _c: (_b, _c, LIMIT)


LIMIT = 3
try:
    raise ValueError("as it is")
except ValueError as _error:
    _text = str(_error)


class Child(base.Base):
    LIMIT = 5
    double = 2 * LIMIT

    def late(self):
        from p.rare import rare

        own = rare(), self.LIMIT, self.double, self._a(), self.times
        return own, _state(1)(2), codes.FULL, clock.__name__, _text


if LIMIT:
    from time import time as now
""",
    "p/app.py": """
from math import inf
from p import __version__
from p.low.child import Child, now


def main():
    from p.codes import note

    child = Child(4)
    return child.late(), child.value, __version__, now() < inf, note(1)
""",
}


@pytest.fixture
def run(tmp_path):
    def run(sources, code="import main"):
        for path, text in sources.items():
            file = tmp_path / str(len(sources)) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        folder = tmp_path / str(len(sources))
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return run


def test_it_computes_the_same(run):
    linked = link(SOURCES, "p.app")
    assert run(linked) == run(SOURCES) != ""


def test_a_package_is_one_module_with_short_names(run):
    linked = link(SOURCES, "p.app")
    assert "class Child" not in "".join(linked.values())
    loaded = (
        "import main, sys; print(sorted(m for m in sys.modules if m[:1] == 'p' and m[1:2] in '.'))"
    )
    assert run(linked, loaded).splitlines()[1] == "['p', 'p.app', 'p.low', 'p.rare']"


def test_others_find_the_old_modules(run):
    code = (
        "from p.codes import note; from p.low import child as c; print(note(1), c.Child(1).value)"
    )
    assert run(link(SOURCES, "p.app"), code) == run(SOURCES, code) == "1 9\n"


def test_what_it_does_not_understand_it_says():
    with pytest.raises(LinkError, match="codes is used as a value"):
        link(SOURCES | {"p/app.py": "from p import codes\nprint(codes)\n"}, "p.app")
    with pytest.raises(LinkError, match=r"p\.codes has no EMPTY"):
        link(SOURCES | {"p/app.py": "from p import codes\nprint(codes.EMPTY)\n"}, "p.app")
    with pytest.raises(LinkError, match=r"p\.codes has no empty"):
        link(SOURCES | {"p/app.py": "from p.codes import empty\nprint(empty)\n"}, "p.app")


def test_it_is_deterministic_and_optional():
    assert link(SOURCES, "p.app") == link(dict(reversed(SOURCES.items())), "p.app")
    assert link(SOURCES) == SOURCES  # no chargekeep.app


FAILS = {
    "chargekeep/__init__.py": "",
    "chargekeep/part.py": "class Part:\n    def _fail(self, d):\n        return 1 // d\n"
    "\n\ndef work():\n    return Part()._fail(0)\n",
    "chargekeep/app.py": "from chargekeep import part\n\n\ndef main():\n    return part.work()\n",
}


def test_a_traceback_is_told_in_names_of_the_sources(tmp_path):
    for path, text in FAILS.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    files = compile_firmware({path: tmp_path / path for path in FAILS})
    for path, data in files.items():
        (tmp_path / path).with_suffix(".py").unlink()
        (tmp_path / path).write_bytes(data)
    run = [program("micropython"), "-c", "from chargekeep import app; app.main()"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert "_fail" not in told and "work" not in told
    told = names.translated(told, names.table(FAILS)).splitlines()
    places = [line.rpartition(": ")[2] for line in told[2:-1]]
    assert places == [
        "chargekeep/app.py:4 main",
        "chargekeep/part.py:6 work",
        "chargekeep/part.py:2 Part._fail",
    ]
    assert told[-1] == "ZeroDivisionError: divide by zero"
