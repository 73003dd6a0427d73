"""The firmware with fewer names in it: MicroPython keeps each one in RAM, and their table doubles.

Public integer constants of modules become the numbers they stand for. Private names (`_name`)
become names that MicroPython has in its ROM, names of parameters short ones that all modules
share. Lines stay where they are, so that
line numbers, where they are compiled in, are those of the source. What a caller outside of the
firmware uses stays as it is, but for names of parameters: it calls by position.
"""

import ast
import itertools
import re
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

Sources = dict[str, str]
"""Path in the package tree, as `chargekeep/cbor.py`, to text."""

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class _Edit(NamedTuple):
    """Replace bytes `start` to `end` of a line (from 1)."""

    line: int
    start: int
    end: int
    new: str


def _edited(text: str, edits: Iterable[_Edit]) -> str:
    lines = text.encode().split(b"\n")
    for line, start, end, new in sorted(set(edits), reverse=True):
        old = lines[line - 1]
        lines[line - 1] = old[:start] + new.encode() + old[end:]
    return b"\n".join(lines).decode()


@lru_cache(1000)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@lru_cache(1000)
def _walked(tree: ast.AST) -> list[ast.AST]:
    return list(ast.walk(tree))


def _nodes(tree: ast.AST, *kinds: type) -> Iterator:
    return (node for node in _walked(tree) if isinstance(node, kinds))


def _over(node) -> _Edit:
    """The edit that removes an expression or statement of one line."""
    return _Edit(node.lineno, node.col_offset, node.end_col_offset, "")


def _rebound(tree: ast.AST) -> set[str]:
    """Names that are assigned or are parameters somewhere."""
    stored = {n.id for n in _nodes(tree, ast.Name) if isinstance(n.ctx, ast.Store)}
    return stored | {a.arg for a in _nodes(tree, ast.arg)}


# Constants


def _integer(node: ast.AST | None) -> int | None:
    """The value of `5`, `-5`, `const(5)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "const":
        node = node.args[0]
    try:
        value = ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return None
    return value if type(value) is int else None


def _constants(tree: ast.Module) -> dict[str, tuple[ast.Assign, int]]:
    """Public constants of a module that are assigned once."""
    found: dict[str, tuple[ast.Assign, int]] = {}
    stores = [n.id for n in _nodes(tree, ast.Name) if isinstance(n.ctx, ast.Store)]
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, _integer(node.value)
            if value is not None and name.isupper() and name[0] != "_" and stores.count(name) == 1:
                found[name] = node, value
    return found


def _import_edits(node: ast.ImportFrom, kept: list[ast.alias]) -> list[_Edit]:
    """`node` with the names of `kept` only, on as many lines."""
    names = ", ".join(f"{a.name} as {a.asname}" if a.asname else a.name for a in kept)
    text = f"from {node.module} import {names}" if kept else "pass"
    last = node.end_lineno or node.lineno
    edits = [_Edit(line, 0, 10**6, "") for line in range(node.lineno + 1, last + 1)]
    return [*edits, _Edit(node.lineno, node.col_offset, 10**6, text)]


def _inline_constants(sources: Sources) -> Sources:
    trees = {path: _parsed(text) for path, text in sources.items()}
    module_of = {path[:-3].replace("/", ".").removesuffix(".__init__"): path for path in sources}
    constants = {path: _constants(tree) for path, tree in trees.items()}
    edits: dict[str, list[_Edit]] = defaultdict(list)
    imports: list[tuple[str, ast.ImportFrom]] = []
    needed: set[str] = set()  # names that something uses in a way not understood
    for path, tree in trees.items():
        rebound = _rebound(tree)
        aliases: dict[str, str] = {}  # local name: path of the module
        values = {name: value for name, (_, value) in constants[path].items()}
        own = set(values)
        for node in _nodes(tree, ast.ImportFrom):
            for alias in node.names:
                name, source = alias.asname or alias.name, module_of.get(node.module or "")
                if inner := module_of.get(f"{node.module}.{alias.name}"):
                    if name not in rebound:
                        aliases[name] = inner
                elif source and alias.name in constants[source]:
                    if name in rebound or alias.asname:
                        needed.add(alias.name)
                    else:
                        values[name] = constants[source][alias.name][1]
            imports.append((path, node))
        for node in _nodes(tree, ast.Attribute):
            module = aliases.get(node.value.id) if isinstance(node.value, ast.Name) else None
            if module and node.attr in constants[module]:
                edits[path].append(_over(node)._replace(new=str(constants[module][node.attr][1])))
            else:
                needed.add(node.attr)
        for node in _nodes(tree, ast.Name):
            if node.id in values and isinstance(node.ctx, ast.Load):
                if node.id in rebound - own:
                    needed.add(node.id)
                else:
                    edits[path].append(_over(node)._replace(new=str(values[node.id])))
        needed |= {n.value for n in _nodes(tree, ast.Constant) if isinstance(n.value, str)}
        needed |= {k.arg for k in _nodes(tree, ast.keyword)}
    for path, found in constants.items():
        for name, (node, _) in found.items():
            if name not in needed:
                edits[path] = [e for e in edits[path] if e.line != node.lineno]
                edits[path].append(_over(node)._replace(new="pass"))
    for path, node in imports:
        source = module_of.get(node.module or "")
        gone = {n for n in constants.get(source or "", ()) if n not in needed}
        kept = [alias for alias in node.names if alias.name not in gone]
        if len(kept) < len(node.names):
            edits[path] += _import_edits(node, kept)
    return {path: _edited(text, edits[path]) for path, text in sources.items()}


# Private names


ROM_NAMES = """
    inf nan pi tau sin cos tan log2 modf ceil fabs fmod acos asin atan erf erfc gamma acosh
    asinh atan2 atanh cosh sinh tanh sqrt trunc expm1 frexp ldexp log10 polar isinf isnan
    lgamma radians degrees copysign factorial isclose isfinite rel_tol abs_tol GS8 MVLSB RGB565
    MONO_VLSB MONO_HLSB MONO_HMSB GS2_HMSB GS4_HMSB blit rect poly hline vline pixel scroll
    ellipse fill_rect framebuf PTR VOID UINT INT8 LONG SHORT ULONG ARRAY INT16 INT32 INT64
    UINT8 UINT16 UINT32 UINT64 USHORT NATIVE BF_LEN BF_POS BFINT8 BFINT16 BFINT32 BFUINT8
    BFUINT16 BFUINT32 FLOAT32 FLOAT64 LONGLONG ULONGLONG BIG_ENDIAN LITTLE_ENDIAN sizeof
    addressof bytearray_at scl sda sck miso mosi ADC I2C I2S PWM SPI LSB MSB STEREO SoftI2C
    SoftSPI polarity firstbit readfrom writeto writevto memaddr addrsize duty_ns duty_u16 freq
    mem8 mem16 mem32 onewire readbit readbyte writebit writebyte heapq heapify heappop heappush
    deque popleft appendleft namedtuple OrderedDict center islower isupper isalpha isspace
    rindex rsplit lstrip rpartition splitlines fromkeys popitem isdisjoint issubset issuperset
    intersection union symmetric_difference difference_update intersection_update randint
    randrange choice uniform getter setter deleter imag maxsize byteorder version_info calcsize
""".split()
"""Names that are in the images of all ports, of what no charger needs; no built-in functions."""


def _short_names(taken: set[str], prefix: str = "") -> Iterator[str]:
    for length in itertools.count(1):
        for word in itertools.product(string.ascii_letters, repeat=length):
            if (name := prefix + "".join(word)) not in taken:
                yield name


def short_names(taken: set[str]) -> Iterator[str]:
    """Names for what is private, those that cost nothing first."""
    yield from (name for name in ROM_NAMES if name not in taken)
    yield from _short_names(taken, "_")


class _Private:
    """Where the private names of a module stand, and which of them have to stay."""

    def __init__(self, text: str):
        self.tree = _parsed(text)
        self.uses: list[tuple[str, int, int]] = []  # name, line, column
        self.defined: set[str] = set()
        self.fixed: set[str] = {a.arg for a in _nodes(self.tree, ast.arg)}
        lines = text.encode().split(b"\n")
        for node in _nodes(self.tree, ast.Attribute):
            self._use(node, node.attr, node.end_lineno, node.end_col_offset - len(node.attr))
        for node in _nodes(self.tree, ast.Name):
            self._use(node, node.id, node.lineno, node.col_offset)
        for node in _nodes(self.tree, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
            column = lines[node.lineno - 1].index(node.name.encode(), node.col_offset)
            self._use(node, node.name, node.lineno, column)
        for node in _nodes(self.tree, ast.alias):
            self.fixed |= {*node.name.split("."), node.asname}
        for node in _nodes(self.tree, ast.Global, ast.Nonlocal):
            self.fixed |= {*node.names}
        for node in _nodes(self.tree, ast.Constant):
            if isinstance(node.value, str):
                self.fixed.add(node.value)
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and _integer(node.value) is not None:
                self.fixed |= {t.id for t in _nodes(node, ast.Name)}
        classes = list(_nodes(self.tree, ast.ClassDef))
        self.classes = {node.name for node in classes}
        bases = [base for node in classes for base in node.bases]
        self.bases = {getattr(base, "attr", getattr(base, "id", "")) for base in bases}

    def _use(self, node, name: str, line: int, column: int) -> None:
        if re.fullmatch("_[^_].+", name):
            self.uses.append((name, line, column))
            if not isinstance(getattr(node, "ctx", None), ast.Load):
                self.defined.add(name)


def _families(modules: list[_Private]) -> list[int]:
    """A number for each module; the same where classes of theirs inherit from each other."""
    family = list(range(len(modules)))
    for one, other in itertools.permutations(range(len(modules)), 2):
        if modules[one].bases & modules[other].classes:
            family = [family[other] if f == family[one] else f for f in family]
    return family


def _share_private_names(sources: Sources) -> Sources:
    """Names that may meet in one module or one object stay different."""
    modules = {path: _Private(text) for path, text in sources.items()}
    parsed = list(modules.values())
    fixed = set().union(*(m.fixed for m in parsed))
    defined = set().union(*(m.defined for m in parsed))
    meets: dict[str, set[int]] = defaultdict(set)
    for family, module in zip(_families(parsed), parsed):
        for name, _, _ in module.uses:
            if name in defined and name not in fixed:
                meets[name].add(family)
    words = {word for text in sources.values() for word in re.findall(r"\w+", text)}
    in_use: dict[int, set[str]] = defaultdict(set)
    new: dict[str, str] = {}
    for name in sorted(meets, key=lambda name: (-len(meets[name]), name)):
        taken = words.union(*(in_use[family] for family in meets[name]))
        new[name] = next(short_names(taken))
        for family in meets[name]:
            in_use[family].add(new[name])
    return {
        path: _edited(
            sources[path],
            [
                _Edit(line, at, at + len(name), new[name])
                for name, line, at in module.uses
                if name in new
            ],
        )
        for path, module in modules.items()
    }


# Parameters


def _parameter_edits(function, fixed: set[str]) -> Iterator[_Edit]:
    inner = [node for child in function.body for node in ast.walk(child)]
    machine_code = any("micropython" in ast.dump(d) for d in function.decorator_list)
    if machine_code or any(isinstance(node, _SCOPES) for node in inner):
        return
    for comprehension in _nodes(function, ast.comprehension):
        fixed = fixed | {n.id for n in _nodes(comprehension.target, ast.Name)}
    arguments = function.args.args
    names = [node for node in inner if isinstance(node, ast.Name)]
    short = _short_names(fixed | {n.id for n in names} | {a.arg for a in arguments})
    for argument in arguments:
        name = argument.arg
        if name == "self" or len(name) < 2 or name in fixed:
            continue
        new = next(short)
        at = argument.col_offset
        yield _Edit(argument.lineno, at, at + len(name), new)
        for node in names:
            if node.id == name:
                yield _over(node)._replace(new=new)


def _share_parameters(sources: Sources) -> Sources:
    trees = {path: _parsed(text) for path, text in sources.items()}
    fixed = {k.arg for tree in trees.values() for k in _nodes(tree, ast.keyword)}
    return {
        path: _edited(
            sources[path],
            [
                edit
                for function in _nodes(tree, ast.FunctionDef, ast.AsyncFunctionDef)
                for edit in _parameter_edits(function, fixed)
            ],
        )
        for path, tree in trees.items()
    }


def shorten(sources: Sources) -> Sources:
    """All modules of one firmware, which refer to each other, with fewer names in them."""
    return _share_parameters(_share_private_names(_inline_constants(sources)))
