"""The allowlist: who may charge with a bare IdToken, as a tree of pages a station can prove.

Pages, numbering and hashes as FORMATS.md section 2 states them. No readable IdToken is in them.
"""

import csv
import hashlib
import itertools
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from chargekeep_tools import objects, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    KeyOption,
    SiteOption,
    StationOption,
    moment,
    new_app,
    seconds,
    show,
    site_of,
)

PAGE = 512
ITEMS = 24
CHUNK_PAGES = 4
DELTA_MAX = 2048
BASES = 4  # of how many earlier lists there are deltas
_SEPARATOR = 5
_LEAST, _ENDING = 16, 8  # of a leaf's entries; one hash in so many ends a leaf that has these
_MAX_LEVEL = 3
_HEAD = struct.Struct(">BBH4x")
_LEAF_ITEM = struct.Struct(">16sBI")
_INDEX_ITEM = struct.Struct(">5s16s")

Entry = tuple[bytes, int, int]
"""IdToken hash (16 bytes), policy index, expiry (unix seconds, 0: none)."""


def _page(level: int, first_child: int, items: list[bytes]) -> bytes:
    return (_HEAD.pack(level, len(items), first_child) + b"".join(items)).ljust(PAGE, b"\0")


def _leaves(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Runs of at most 24, never cut between entries whose separators are equal.

    Where a run ends is up to the entries themselves (past 16, one in eight ends it), so that a
    change moves the ends near it only: stations take all other leaves from the list they have.
    """
    start = 0
    while start < len(entries):
        end = min(start + ITEMS, len(entries))
        for i in range(start + _LEAST, end):
            if entries[i - 1][0][-1] % _ENDING == 0:
                end = i
                break
        while start < end < len(entries) and (
            entries[end][0][:_SEPARATOR] == entries[end - 1][0][:_SEPARATOR]
        ):
            end -= 1
        if end == start:
            raise ToolError(
                f"more than {ITEMS} hashes begin with the same {_SEPARATOR} bytes", Exit.REFUSED
            )
        yield entries[start:end]
        start = end


def build_pages(entries: Iterable[Entry]) -> list[bytes]:
    """The pages of a list, page 0 being the root; `ToolError` for duplicates or too many."""
    ordered = sorted(entries)
    for (one, *_), (other, *_) in itertools.pairwise(ordered):
        if one == other:
            raise ToolError("an IdToken is in the list twice", Exit.USAGE, "remove one of them")
    if not ordered:
        return [bytes(PAGE)]
    leaves = list(_leaves(ordered))
    # How many children each page of each level has, from the leaves' parents up to the root.
    shape: list[list[int]] = []
    width = len(leaves)
    while width > 1:
        shape.insert(0, [min(ITEMS, width - i) for i in range(0, width, ITEMS)])
        width = len(shape[0])
    if len(shape) > _MAX_LEVEL:
        raise ToolError("more IdTokens than a list can hold (331,776)", Exit.USAGE)
    below = [
        (run[0][0], _page(0, 0, [_LEAF_ITEM.pack(*entry) for entry in run])) for run in leaves
    ]
    levels = [below]
    for depth in range(len(shape) - 1, -1, -1):
        number = sum(map(len, shape[: depth + 1]))  # of the first page of the level below
        level = len(shape) - depth
        pages, taken = [], 0
        for children in shape[depth]:
            group = below[taken : taken + children]
            items = [
                _INDEX_ITEM.pack(lowest[:_SEPARATOR], hashlib.sha256(page).digest()[:16])
                for lowest, page in group
            ]
            pages.append((group[0][0], _page(level, number + taken, items)))
            taken += children
        levels.insert(0, pages)
        below = pages
    return [page for level_pages in levels for _, page in level_pages]


_TAKE_LEAVES, _TAKE, _SKIP, _ADD, _END = range(5)  # kinds of a delta's instructions
_MOST = 0x1FFF  # that one counts


def _leaf_items(pages: list[bytes]) -> list[list[bytes]]:
    return [
        [page[i : i + 21] for i in range(_HEAD.size, _HEAD.size + 21 * page[1], 21)]
        for page in pages
        if page[0] == 0
    ]


def delta(old: list[bytes], new: list[bytes]) -> bytes:
    """Instructions that make the pages of a list from another's (FORMATS.md section 2)."""
    out: list[tuple[int, int, bytes]] = []

    def say(kind: int, n: int, data: bytes = b"") -> None:
        if out and kind != _END and out[-1][0] == kind:
            kind, before, said = out.pop()
            n, data = before + n, said + data
        out.append((kind, n, data))

    items: list[bytes] = []
    starts = {}
    for leaf in _leaf_items(old):
        starts[tuple(leaf)] = len(items)
        items += leaf
    cursor = 0
    for leaf in _leaf_items(new):
        start = starts.get(tuple(leaf))
        if start is not None and start >= cursor:
            if start > cursor:
                say(_SKIP, start - cursor)
            say(_TAKE_LEAVES, 1)
            cursor = start + len(leaf)
            continue
        for item in leaf:
            while cursor < len(items) and items[cursor][:16] < item[:16]:
                say(_SKIP, 1)
                cursor += 1
            if cursor < len(items) and items[cursor] == item:
                say(_TAKE, 1)
                cursor += 1
            else:
                say(_ADD, 1, item)
        say(_END, 0)
    parts = []
    for kind, n, data in out:
        while n > _MOST:
            parts.append(struct.pack(">H", kind << 13 | _MOST))
            n -= _MOST
        parts.append(struct.pack(">H", kind << 13 | n) + data)
    return b"".join(parts)


def find(pages: list[bytes], root_hash: bytes, wanted: bytes) -> Entry | None:
    """The entry of an IdToken hash, every page on the way proven; None if it is not listed.

    Raises `WireError` for pages that the root hash does not vouch for.
    """
    expected, number = root_hash, 0
    while True:
        page = pages[number]
        if hashlib.sha256(page).digest()[: len(expected)] != expected:
            raise wire.WireError(wire.COSE_SIGNATURE, f"page {number} is not the signed one")
        level, count, first_child = _HEAD.unpack_from(page)
        if level == 0:
            body = page[_HEAD.size : _HEAD.size + count * _LEAF_ITEM.size]
            return next((e for e in _LEAF_ITEM.iter_unpack(body) if e[0] == wanted), None)
        body = page[_HEAD.size : _HEAD.size + count * _INDEX_ITEM.size]
        items = list(_INDEX_ITEM.iter_unpack(body))
        fit = [i for i, item in enumerate(items) if item[0] <= wanted[:_SEPARATOR]]
        if not fit:
            return None
        number, expected = first_child + fit[-1], items[fit[-1]][1]


def build(
    home: Home,
    site: str,
    id_tokens: Iterable[tuple[str, int, int]],
    *,
    exp: int,
    station: str | None = None,
    key: str | None = None,
    now: int | None = None,
) -> objects.SignedObject:
    """Sign the list of `(IdToken, policy index, expiry)` and keep its pages beside the header."""
    site_key = home.site_key(site)
    entries = [
        (wire.id_token_hash(site_key, token), policy, expiry)
        for token, policy, expiry in id_tokens
    ]
    pages = build_pages(entries)
    body = {10: len(entries), 11: hashlib.sha256(pages[0]).digest(), 12: len(pages), 13: exp}
    deltas = _deltas(home, site, pages) if entries else {}
    if deltas:
        body[14] = sorted(deltas)
    signed = objects.sign(home, wire.ALLOWLIST, site, body, station, key, now)
    home.save_object(site, "allowlist", signed.version, b"".join(pages), "pages")
    for base, data in deltas.items():
        home.save_object(site, "allowlist", signed.version, data, f"from{base}")
    return signed


def _deltas(home: Home, site: str, pages: list[bytes]) -> dict[int, bytes]:
    """By the version of the list that they lead from; only what fits in one message."""
    found = {}
    for version in home.object_versions(site, "allowlist")[-BASES:]:
        if home.object_path(site, "allowlist", version, "pages").exists():
            data = delta(_pages(home, site, version), pages)
            if len(data) <= DELTA_MAX:
                found[version] = data
    return found


def _pages(home: Home, site: str, version: int) -> list[bytes]:
    data = home.object_path(site, "allowlist", version, "pages").read_bytes()
    return [data[i : i + PAGE] for i in range(0, len(data), PAGE)]


def parts(home: Home, site: str, version: int) -> Iterator[tuple[int, bytes]]:
    """What a station can ask for of a list: a chunk by its number, a delta by minus the version
    that it leads from."""
    header = home.object_path(site, "allowlist", version)
    for path in sorted(header.parent.glob(f"{header.stem}.from*")):
        yield -int(path.suffix.removeprefix(".from")), path.read_bytes()
    yield from enumerate(chunks(home, site, version))


def chunks(home: Home, site: str, version: int) -> list[bytes]:
    """The list's pages as `down/allowlist/<version>/<n>` carries them: four to a message."""
    pages = _pages(home, site, version)
    return [b"".join(pages[i : i + CHUNK_PAGES]) for i in range(0, len(pages), CHUNK_PAGES)]


def read_csv(path: Path) -> Iterator[tuple[str, int, int]]:
    """Rows of `id_token[,policy[,expiry]]`; a first row that says `id_token` is a heading."""
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0].strip().lower() == "id_token"):
                continue
            token, policy, expiry = (*map(str.strip, row), "", "")[:3]
            if not 1 <= len(token.encode()) <= 36 or not (policy or "0").isdigit():
                raise ToolError(
                    f"{path}:{number}: {','.join(row)!r} is no entry",
                    Exit.USAGE,
                    "id_token,policy,expiry",
                )
            if int(policy or 0) > 255:
                raise ToolError(f"{path}:{number}: a policy index is 0 to 255", Exit.USAGE)
            yield token, int(policy or 0), moment(expiry) if expiry else 0


app = new_app("Make and look into a site's allowlist.")


@app.command("build")
def build_command(
    file: Annotated[
        Path | None, typer.Argument(help="CSV of id_token,policy,expiry.", exists=True)
    ] = None,
    id_token: Annotated[
        list[str] | None, typer.Option(help="One more IdToken, policy 0; repeat for more.")
    ] = None,
    valid: Annotated[str, typer.Option("--for", help="The list is valid for this long.")] = "30d",
    site: SiteOption = None,
    station: StationOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the list of who may charge; it replaces the list before."""
    the_home = Home(home)
    rows = [*(read_csv(file) if file else ()), *((token, 0, 0) for token in id_token or ())]
    exp = int(time.time()) + seconds(valid)
    signed = build(
        the_home, site_of(the_home, site, station), rows, exp=exp, station=station, key=key
    )
    summary = {**signed.summary(), "count": len(rows), "exp": exp}
    show(summary, as_json, lambda: print(f"{signed.sentence()} ({len(rows)} IdTokens)"))


@app.command("find")
def find_command(
    id_token: str,
    site: SiteOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look an IdToken up in the newest list, as a station does. Exit status 7: not listed."""
    the_home = Home(home)
    name = site_of(the_home, site)
    newest = next(the_home.objects(name, "allowlist"), None)
    if newest is None:
        raise ToolError(f"site {name} has no allowlist", Exit.HOME, "allowlist build makes one")
    version, _, data = newest
    payload = wire.peek_sign1(data)[2]
    entry = find(
        _pages(the_home, name, version),
        payload[11],
        wire.id_token_hash(the_home.site_key(name), id_token),
    )
    result = {
        "version": version,
        "listed": entry is not None,
        "policy": entry and entry[1],
        "expiry": entry and entry[2],
    }
    text = f"listed, policy {entry[1]}" if entry else "not listed"
    show(result, as_json, lambda: print(f"{text} (version {version})"))
    raise typer.Exit(Exit.OK if entry else Exit.FAILED)
