"""The firmware as fewer modules: what the charger always loads of a package is one module there.

On a board each module costs some 200 bytes of RAM for its path, its table of globals and its
table of names; each import of a name costs a place in such a table; and each name that another
module uses is kept as it is written. So the modules of a package that `chargekeep.app` imports,
itself or through others, become the package itself (its `__init__`), and what they define gets a
short name. Who imports one of them by its own name, as the host's tools do, finds a small module
that gives its public names.

A module that imports from a package inside its own stays what it is, as app.py does. So does what
is imported inside of a function or an `if`: it may never be loaded. Private names are unique in
their module only: names of two modules may become the same. Names of ROM_NAMES count as private.
"""

import ast
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from chargekeep_tools.shorten import ROM_NAMES, short_names

Sources = dict[str, str]
"""Path in the package tree, as `chargekeep/cbor.py`, to text."""

ENTRY = "chargekeep.app"
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class LinkError(ValueError):
    """The firmware does what is not understood here; the message says where."""


class _Key(NamedTuple):
    """A global: `name` of the firmware's module `of`; or of '', an import statement."""

    of: str
    name: str


def _bindings(nodes: list) -> Iterator[str]:
    """Names that statements bind in the scope they stand in."""
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.split(".")[0]
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            if isinstance(node, ast.ExceptHandler) and node.name:
                yield node.name
            yield from _bindings(list(ast.iter_child_nodes(node)))


class _Module:
    """`bound`: its globals and what each is in the end. `aliases`: local names of modules."""

    def __init__(self, path: str, text: str):
        self.path = path
        self.is_package = path.endswith("__init__.py")
        self.name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self.package = self.name if self.is_package else self.name.rpartition(".")[0]
        self.unit = self.name
        self.tree = ast.parse(text)
        self.bound = {name: _Key(self.name, name) for name in _bindings(self.tree.body)}
        self.own = {*self.bound}
        self.aliases: dict[str, str] = {}
        self.needs: list[str] = []
        self.constants: set[str] = set()  # names that the compiler replaces by their values

    def bind(self, modules: dict[str, "_Module"]) -> None:
        """Find out what its import statements give."""
        for node in self.tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self._bind(node, alias, modules)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                if ast.unparse(node.value.func) == "const":
                    self.constants |= {ast.unparse(target) for target in node.targets}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Global):
                self.bound |= {name: _Key(self.name, name) for name in node.names}

    def _bind(self, node, alias: ast.alias, modules: dict[str, "_Module"]) -> None:
        name = alias.asname or alias.name.split(".")[0]
        source = getattr(node, "module", "")
        inner = f"{source}.{alias.name}"
        self.own.discard(name)
        if inner in modules:
            self.aliases[name] = inner
            self.needs.append(inner)
            del self.bound[name]
        elif source in modules:
            self.bound[name] = _Key(source, alias.name)
            self.needs.append(source)
        else:
            alone = ast.ImportFrom(source, [alias], 0) if source else ast.Import([alias])
            self.bound[name] = _Key("", ast.unparse(alone))


class _Renaming(ast.NodeTransformer):
    """Gives each global name that a module uses to `rename(name, local names around it)`.

    `module.name`, where `module` is an alias of a module of the firmware, is one name.
    """

    def __init__(self, module: _Module, rename: Callable[[str, set[str]], str]):
        self._module = module
        self._rename = rename
        self._functions: set[str] = set()  # names that the functions around bind
        self._class: set[str] = set()  # ... and the class whose body this is

    def _new(self, name: str) -> str:
        local = self._functions | self._class
        return name if name in local else self._rename(name, local)

    def _visit_in(self, functions: set[str], of_class: set[str], nodes: list) -> None:
        before = self._functions, self._class
        self._functions, self._class = functions, of_class
        for node in nodes:
            self.visit(node)
        self._functions, self._class = before

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.bases = [self.visit(base) for base in node.bases]
        self._visit_in(self._functions, {*_bindings(node.body)}, node.body)
        node.name = self._new(node.name)
        return node

    def _visit_function(self, node, body: list) -> ast.AST:
        # The defaults belong to the scope around; a parameter has no child that is a name.
        self.visit(node.args)
        arguments = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        declared = {
            name
            for statement in body
            for inner in ast.walk(statement)
            if isinstance(inner, ast.Global)
            for name in inner.names
        }
        local = (arguments | {*_bindings(body)}) - declared
        self._visit_in(self._functions | local, set(), body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._visit_function(node, node.body)
        node.name = self._new(node.name)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        holder = ast.Expr(node.body)
        self._visit_function(node, [holder])
        node.body = holder.value
        return node

    def _visit_comprehension(self, node) -> ast.AST:
        local = {*_bindings([generator.target for generator in node.generators])}
        before = self._functions
        self._functions = before | local
        self.generic_visit(node)
        self._functions = before
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self._rename(name, set()) for name in node.names]
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name:
            node.name = self._new(node.name)
        return self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> ast.AST:
        name = node.asname or node.name
        new = self._new(name)
        if new != name:
            node.asname = new
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self._module.aliases and node.id not in self._functions:
            raise LinkError(f"{self._module.path}: the module {node.id} is used as a value")
        node.id = self._new(node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        value = node.value
        if isinstance(value, ast.Name) and value.id in self._module.aliases:
            if value.id not in self._functions:
                new = self._rename(f"{value.id}.{node.attr}", self._functions | self._class)
                return ast.copy_location(ast.Name(new, node.ctx), node)
        return self.generic_visit(node)


class _Firmware:
    def __init__(self, sources: Sources, entry: str):
        modules = [_Module(path, text) for path, text in sorted(sources.items())]
        self.modules = {module.name: module for module in modules}
        for module in modules:
            module.bind(self.modules)
        self.order: list[_Module] = []
        self._load(entry)
        for module in self.order:
            self._join(module)
        self.order += [m for m in modules if m not in self.order]
        self.units: dict[str, list[_Module]] = defaultdict(list)
        for module in self.order:
            self.units[module.unit].append(module)
        self.names: dict[_Key, str] = {}
        self.used: dict[str, dict[_Key, set[str]]] = {}  # unit: key: local names around its uses
        for unit in self.units:
            if not self.untouched(unit):
                self.used[unit] = self._uses(unit)
        self._choose_names()

    def untouched(self, unit: str) -> bool:
        """Whether a unit is a module that uses none of what is joined."""
        module, *more = self.units[unit]
        needed = [self.modules[name] for name in module.needs]
        return not more and all(m.unit == m.name for m in [module, *needed])

    # Which modules become one

    def _load(self, name: str) -> None:
        """`order`: as the board loads them from `name` on, what is needed first."""
        module = self.modules[name]
        if module in self.order:
            return
        parent = name.rpartition(".")[0]
        for needed in ([parent] if parent in self.modules else []) + module.needs:
            self._load(needed)
        if module not in self.order:
            self.order.append(module)

    def _join(self, module: _Module) -> None:
        if module.package in ("", module.name):
            return
        needed = {self.modules[name].unit for name in module.needs}
        inside = {unit for unit in needed if unit.startswith(module.package + ".")}
        if not inside:
            module.unit = module.package

    # What they are called

    def _key(self, module: _Module, name: str) -> _Key | None:
        """What the global `name` of `module` is; None: a name of MicroPython's."""
        alias, _, attribute = name.partition(".")
        if attribute:
            return self._defined(self.modules[module.aliases[alias]], attribute)
        key = module.bound.get(name)
        if key and key.of and key.of != module.name:
            return self._defined(self.modules[key.of], key.name)
        return key

    def _defined(self, module: _Module, name: str) -> _Key:
        key = self._key(module, name)
        if key is None:
            raise LinkError(f"{module.name} has no {name}")
        return key

    def _uses(self, unit: str) -> dict[_Key, set[str]]:
        used: dict[_Key, set[str]] = defaultdict(set)

        def note(name: str, local: set[str]) -> str:
            if key := self._key(module, name):
                used[key] |= local
            return name

        for module in self.units[unit]:
            for name in sorted(module.own):
                used[_Key(module.name, name)] |= set()
            _Renaming(module, note).visit(ast.parse(ast.unparse(module.tree)))
        return used

    def _choose_names(self) -> None:
        """One name per global in all units that use it: as short as can be, or as it was."""
        users: dict[_Key, list[str]] = defaultdict(list)
        avoid: dict[_Key, set[str]] = defaultdict(set)
        for unit, used in self.used.items():
            for key, local in used.items():
                users[key].append(unit)
                avoid[key] |= local
        taken: dict[str, set[str]] = {unit: set() for unit in self.units}
        constants = itertools.count()
        # What keeps its name goes first, then what most have to agree on.
        for key in sorted(users, key=lambda key: (not self._keeps(key), -len(users[key]))):
            if self._keeps(key):
                name = key.name if key.of else _imported(key.name)
            elif key.name in self.modules[key.of].constants:
                name = f"_CONSTANT_{next(constants)}"  # the compiler puts its value everywhere
            else:
                name = next(short_names(avoid[key].union(*(taken[unit] for unit in users[key]))))
            for unit in users[key]:
                if name in taken[unit]:
                    raise LinkError(f"{unit}: {name} of {key.of or key.name} is there already")
                taken[unit].add(name)
            self.names[key] = name

    def _keeps(self, key: _Key) -> bool:
        if not key.of or key.name.startswith("__"):
            return True
        module = self.modules[key.of]
        if key.name.startswith("_"):
            return False
        return module.unit == module.name or key.name in module.constants

    # What is written

    def path(self, unit: str) -> str:
        first, *more = self.units[unit]
        alone = not more and first.name == unit
        return first.path if alone else unit.replace(".", "/") + "/__init__.py"

    def text(self, unit: str) -> str:
        """The source of a unit."""
        members = self.units[unit]
        body = [node for module in members for node in self._renamed(module)]
        tree = ast.Module([*self._imports(unit), *body], [])
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n"

    def _renamed(self, module: _Module) -> list[ast.stmt]:
        def rename(name: str, local: set[str]) -> str:
            key = self._key(module, name)
            return self.names[key] if key else name

        body = [n for n in module.tree.body if not isinstance(n, (ast.Import, ast.ImportFrom))]
        tree = ast.Module(body, [])
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in self.modules:
                self._redirect(node)
        _Renaming(module, rename).visit(tree)
        return tree.body

    def _redirect(self, node: ast.ImportFrom) -> None:
        """An import inside of something, of what is now elsewhere."""
        source = self.modules[node.module or ""]
        for alias in node.names:
            key = source.bound.get(alias.name)
            if f"{node.module}.{alias.name}" in self.modules or key is None:
                return
        if source.unit != source.name:
            node.module = source.unit
            for alias in node.names:
                alias.asname = alias.asname or alias.name
                alias.name = self.names[_Key(source.name, alias.name)]

    def _imports(self, unit: str) -> list[ast.stmt]:
        statements: list[str] = []
        foreign: dict[str, list[str]] = {}
        for module in self.units[unit]:
            foreign |= {self.modules[n].unit: [] for n in module.needs if n not in foreign}
        for key in self.used[unit]:
            if not key.of:
                statements.append(key.name)
            elif self.modules[key.of].unit != unit:
                foreign[self.modules[key.of].unit].append(self.names[key])
        foreign.pop(unit, None)
        for source, names in foreign.items():
            if names:
                statements.append(f"from {source} import {', '.join(names)}")
        return ast.parse("\n".join(statements)).body

    def stub(self, module: _Module) -> str:
        """What stands in a module's old place."""
        names = [
            f"{self.names[_Key(module.name, name)]} as {name}"
            for name in sorted(module.own)
            if name[0] != "_" and name not in ROM_NAMES
        ]
        return f"from {module.unit} import {', '.join(names)}\n" if names else "\n"


def _imported(statement: str) -> str:
    return next(_bindings(ast.parse(statement).body))


def link(sources: Sources, entry: str = ENTRY) -> Sources:
    """The same firmware with the packages' modules joined. Raises LinkError.

    Without a module `entry` nothing is joined.
    """
    if entry.replace(".", "/") + ".py" not in sources:
        return sources
    firmware = _Firmware(sources, entry)
    linked = {}
    for unit, members in firmware.units.items():
        path = firmware.path(unit)
        linked |= {m.path: firmware.stub(m) for m in members if m.path != path}
        linked[path] = sources[path] if firmware.untouched(unit) else firmware.text(unit)
    return dict(sorted(linked.items()))


def members(sources: Sources) -> dict[str, list[str]]:
    """Of each module that `link` makes of a whole firmware: the paths of those that are in it."""
    firmware = _Firmware(sources, ENTRY)
    return {firmware.path(unit): [m.path for m in firmware.units[unit]] for unit in firmware.units}
