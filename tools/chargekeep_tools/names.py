"""What a traceback of compiled firmware calls things, and what the sources call them.

A board's modules are joined (link.py), their names shortened (shorten.py), and without line
numbers. `bundle build` writes the table beside the bundle; no board has it.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from chargekeep_tools.compiler import called
from chargekeep_tools.link import link, members
from chargekeep_tools.shorten import shorten

Names = dict[str, list[str]]
"""`module function` of a traceback to the places it may be, as `chargekeep/cbor.py:12 _head`."""

_LINE = re.compile(r'^\s*File "([^"]+)", line \d+, in (\S+)', re.M)


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Name and line of each function, in the order of the text."""
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not isinstance(child, ast.ClassDef):
                yield prefix + child.name, child.lineno
            inner = f"{prefix}{child.name}."
        yield from _functions(child, inner)


def table(texts: dict[str, str]) -> Names:
    """The names of one firmware: path in the slot to source, all modules of a board."""
    found: Names = defaultdict(list)
    short = shorten(texts)
    linked = link(short)
    for path, parts in members(short).items():
        before = [
            f"{part}:{line} {name}"
            for part in parts
            for name, line in _functions(ast.parse(texts[part]))
        ]
        after = [name for name, _ in _functions(ast.parse(linked[path]))]
        for name, place in zip(after, before, strict=True):
            found[f"{called(path)} {name.rpartition('.')[2]}"].append(place)
    return found


def translated(text: str, names: Names) -> str:
    """A traceback with what its functions are called in the sources; what is unknown stays."""

    def line(match: re.Match[str]) -> str:
        places = names.get(f"{match[1]} {match[2]}")
        return f"{match[0]}: {' or '.join(places)}" if places else match[0]

    return _LINE.sub(line, text)
