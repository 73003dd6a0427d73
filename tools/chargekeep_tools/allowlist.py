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
    signed = objects.sign(home, wire.ALLOWLIST, site, body, station, key, now)
    home.save_object(site, "allowlist", signed.version, b"".join(pages), "pages")
    return signed


def chunks(home: Home, site: str, version: int) -> list[bytes]:
    """The list's pages as `down/allowlist/<version>/<n>` carries them: four to a message."""
    data = home.object_path(site, "allowlist", version, "pages").read_bytes()
    return [data[i : i + CHUNK_PAGES * PAGE] for i in range(0, len(data), CHUNK_PAGES * PAGE)]


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
    joined = b"".join(chunks(the_home, name, version))
    pages = [joined[i : i + PAGE] for i in range(0, len(joined), PAGE)]
    entry = find(pages, payload[11], wire.id_token_hash(the_home.site_key(name), id_token))
    result = {
        "version": version,
        "listed": entry is not None,
        "policy": entry and entry[1],
        "expiry": entry and entry[2],
    }
    text = f"listed, policy {entry[1]}" if entry else "not listed"
    show(result, as_json, lambda: print(f"{text} (version {version})"))
    raise typer.Exit(Exit.OK if entry else Exit.FAILED)
