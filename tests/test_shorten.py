"""Shortened firmware does what its sources say, and keeps the names that others call it by."""

import ast
import sys
from types import ModuleType
from unittest import mock

from chargekeep_tools.shorten import ROM_NAMES, shorten

SOURCES = {
    "p/__init__.py": "",
    "p/codes.py": "FULL = 501\nEMPTY = 502  # no more\nKEPT = 503\n_HIDDEN = 5\n",
    "p/base.py": """
from p import codes


class Base:
    def __init__(self, first, second=codes.FULL):
        self._first = first
        self.second = second

    def _step(self, times):
        return self._first * times
""",
    "p/child.py": """
from p import codes
from p.base import Base
from p.codes import EMPTY, KEPT

LIMIT = -3


class Child(Base):
    def __init__(self, first):
        super().__init__(first)
        self._other = [value for value in range(first)]

    def run(self, count, limit=LIMIT):
        twice = lambda count: 2 * count
        return self._step(count) + len(self._other) + limit + EMPTY, twice(count)

    def named(self, count):
        return getattr(codes, "KEPT") + KEPT + count


def make(size):
    return Child(first=size)
""",
}


def run(sources):
    """What the package computes, run from these sources."""
    package = {"p": ModuleType("p")}
    for path in ("p/codes.py", "p/base.py", "p/child.py"):
        name = path[:-3].replace("/", ".")
        package[name] = ModuleType(name)
        setattr(package["p"], path[2:-3], package[name])
    with mock.patch.dict(sys.modules, package):
        for name in list(package)[1:]:
            exec(sources[name.replace(".", "/") + ".py"], package[name].__dict__)
        child = package["p.child"].make(4)
        return child.run(3), child.run(count=2, limit=1), child.named(1), child.second


def test_it_computes_the_same():
    assert run(shorten(SOURCES)) == run(SOURCES)


def test_fewer_names_on_the_same_lines():
    short = shorten(SOURCES)
    assert {p: t.count("\n") for p, t in short.items()} == {
        p: t.count("\n") for p, t in SOURCES.items()
    }
    words = " ".join(short.values())
    for gone in ("FULL", "EMPTY", "_first", "_other", "_step", "times", "codes.FULL"):
        assert gone not in words, gone
    for kept in ("KEPT", "def run", "def make", "class Child", "first", "limit", "count"):
        assert kept in words, kept


def test_objects_keep_their_private_names_apart():
    short = shorten(SOURCES)
    names = set()
    for path in ("p/base.py", "p/child.py"):
        names |= {
            n.attr
            for n in ast.walk(ast.parse(short[path]))
            if isinstance(n, ast.Attribute) and n.attr in ROM_NAMES
        }
    assert len(names) == 3  # _first, _step, _other


def test_it_is_deterministic():
    assert shorten(SOURCES) == shorten(dict(reversed(SOURCES.items())))
