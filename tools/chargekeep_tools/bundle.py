"""Firmware bundles: the compiled firmware of one board and its signed manifest, in one file.

The same sources, version and time give the same bytes. Layout: `CKB1`, the manifest's length (4
bytes, big-endian), the manifest (COSE_Sign1, FORMATS.md section 6), the list of files that it
names by hash, and the files in the list's order, one after the other.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import keys, names, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.compiler import compile_firmware
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    KeyOption,
    SiteOption,
    new_app,
    show,
    site_of,
    table,
    utc,
)
from chargekeep_tools.programs import firmware_root

MAGIC = b"CKB1"
PRODUCT = "chargekeep"
BYTECODE = 6  # version of .mpy files that MicroPython 1.19 and later load
# What native code of an architecture needs of sys.implementation._mpy: version 6.3 and its number.
NATIVE = {"armv6m": 6 | 3 << 8 | 4 << 10}

# Where a board's port calls itself in the manifest (Board.name), and the code it can run natively.
BOARDS = {
    "RPI_PICO": ("RP2", "armv6m"),
    "RPI_PICO_W": ("RP2", "armv6m"),
    "ESP32_GENERIC": ("ESP32", None),
    "ESP32_GENERIC_S3": ("ESP32", None),
    "ESP32_GENERIC_C3": ("ESP32", None),
    "UNIX": ("UNIX", None),
}
ROOT_FILES = ("boot.py", "main.py")
"""Files beside the slots: written at provisioning, never updated."""


@dataclass(frozen=True)
class Bundle:
    """`manifest` as signed, `listed` its payload (not verified), `files` path to content."""

    manifest: bytes
    listed: dict[int, Any]
    files: dict[str, bytes]

    @property
    def version(self) -> int:
        return self.listed[1]

    @property
    def stream(self) -> bytes:
        """List and files, as stations fetch them."""
        return file_list(self.files) + b"".join(self.files[path] for path in sorted(self.files))

    def encode(self) -> bytes:
        return MAGIC + len(self.manifest).to_bytes(4, "big") + self.manifest + self.stream

    @staticmethod
    def decode(data: bytes) -> "Bundle":
        """Read a bundle; `WireError` where content and manifest do not fit each other."""
        if data[:4] != MAGIC:
            raise wire.WireError(wire.COSE_FORM, "not a bundle")
        start = 8 + int.from_bytes(data[4:8], "big")
        manifest = data[8:start]
        content_type, _, listed = wire.peek_sign1(manifest)
        if content_type != wire.FIRMWARE:
            raise wire.WireError(wire.COSE_CONTENT_TYPE, "not a firmware manifest")
        files: dict[str, bytes] = {}
        size, digest = listed[13]
        names = data[start : start + size]
        start += size
        if hashlib.sha256(names).digest() != digest:
            raise wire.WireError(wire.COSE_SIGNATURE, "the list of files is not the one signed")
        for line in names.decode().splitlines():
            _, size, path = line.split(" ", 2)
            files[path] = data[start : start + int(size)]
            start += int(size)
        if start != len(data) or file_list(files) != names:
            raise wire.WireError(wire.COSE_SIGNATURE, "the files are not those signed")
        return Bundle(manifest, listed, files)


def file_list(files: dict[str, bytes]) -> bytes:
    """What a manifest says of files (path to content): hash, size and path, a line each."""
    lines = (
        f"{hashlib.sha256(files[p]).hexdigest()} {len(files[p])} {p}\n" for p in sorted(files)
    )
    return "".join(lines).encode()


def sources(board: str, root: Path) -> Iterator[tuple[str, Path]]:
    """`(path in the slot, source)` of every module of a board, as its manifest.py lists them."""
    found: dict[str, Path] = {}

    def run(path: Path) -> None:
        folder = path.parent

        def package(name: str, base_path: str = ".") -> None:
            base = folder / base_path
            for source in (base / name).rglob("*.py"):
                found[source.relative_to(base).as_posix()] = source

        def module(name: str, base_path: str = ".") -> None:
            found[name] = folder / base_path / name

        def include(name: str) -> None:
            if not name.startswith("$("):  # of MicroPython itself: the board's image has it
                run((folder / name).resolve())

        exec(path.read_text(), {"package": package, "module": module, "include": include})

    run(root / "boards" / board / "manifest.py")
    return ((path, found[path]) for path in sorted(found) if path not in ROOT_FILES)


def _compiled(board: str, root: Path) -> dict[str, Path]:
    thumb = BOARDS[board][1] == "armv6m"
    return {p: s for p, s in sources(board, root) if thumb or not p.endswith("_thumb.py")}


def compile_files(board: str, root: Path) -> tuple[dict[str, bytes], int]:
    """The compiled modules of a board, and the bytecode they need."""
    architecture = BOARDS[board][1]
    files = compile_firmware(_compiled(board, root), architecture)
    native = architecture and any(data[2] >> 2 for data in files.values())
    return files, NATIVE[architecture] if architecture and native else BYTECODE


def root_files(board: str, root: Path) -> dict[str, bytes]:
    """What an empty board needs beside the slots, as a bundle carries it: below `root/`."""
    found = {f"root/{name}": (root / "firmware" / name).read_bytes() for name in ROOT_FILES}
    found["root/config.json"] = (root / "boards" / board / "config.json").read_bytes()
    return found


def version_number(text: str) -> int:
    """`1.2.3` as 10203: what the stations' version floor counts."""
    parts = [int(part) for part in text.split(".")]
    if len(parts) != 3 or max(parts[1:]) > 99:
        raise ToolError(f"{text!r} is no version", Exit.USAGE, "write it as 1.2.3")
    return parts[0] * 10000 + parts[1] * 100 + parts[2]


def firmware_version(root: Path) -> str:
    """`__version__` of the firmware's sources."""
    text = (root / "firmware" / "chargekeep" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([\d.]+)"$', text, re.M)
    if not found:
        raise ToolError(f"no __version__ in {root}/firmware/chargekeep", Exit.REFUSED)
    return found[1]


def sign(
    home: Home,
    site: str,
    board: str,
    files: dict[str, bytes],
    *,
    version: int,
    text: str,
    abi: int = BYTECODE,
    issued: int = 0,
    station: str | None = None,
    key: str | None = None,
) -> Bundle:
    """Sign `files` (path in the slot to content) as a bundle for the stations of a site."""
    record = keys.choose(home, "issuer", wire.SCOPE[wire.FIRMWARE], key)
    names = file_list(files)
    listed: dict[int, Any] = {
        1: version,
        2: site,
        4: issued,
        10: PRODUCT,
        11: BOARDS[board][0],
        12: abi,
        13: [len(names), hashlib.sha256(names).digest()],
        14: text,
    }
    if station is not None:
        listed[3] = station
    manifest = wire.seal_sign1(wire.FIRMWARE, keys.load(home, record["name"]), listed)
    return Bundle(manifest, listed, files)


def build(
    home: Home,
    site: str,
    board: str,
    *,
    root: Path | None = None,
    version: str | None = None,
    issued: int | None = None,
    key: str | None = None,
) -> Bundle:
    """Compile the firmware of `board` and sign it for a site.

    `issued` is $SOURCE_DATE_EPOCH or 0 unless given, so that the same input gives the same bytes.
    """
    if board not in BOARDS:
        raise ToolError(f"no board {board!r}", Exit.USAGE, f"one of: {', '.join(BOARDS)}")
    root = root or firmware_root()
    text = version or firmware_version(root)
    files, abi = compile_files(board, root)
    files |= root_files(board, root)
    if issued is None:
        issued = int(os.environ.get("SOURCE_DATE_EPOCH", 0))
    return sign(
        home,
        site,
        board,
        files,
        version=version_number(text),
        text=text,
        abi=abi,
        issued=issued,
        key=key,
    )


def load(path: Path) -> Bundle:
    """The bundle in the file `path`."""
    try:
        return Bundle.decode(path.read_bytes())
    except FileNotFoundError:
        raise ToolError(f"no bundle {path}", Exit.USAGE, "bundle build makes one")


app = new_app("Build and look into firmware bundles.")


@app.command("build")
def build_command(
    board: Annotated[str, typer.Argument(help=f"One of: {', '.join(BOARDS)}.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    version: Annotated[str | None, typer.Option(help="Version [of the sources].")] = None,
    site: SiteOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile the firmware of BOARD and sign it for a site.

    What its tracebacks call things goes into a file beside it, for `bundle trace`.
    """
    the_home = Home(home)
    bundle = build(the_home, site_of(the_home, site), board, version=version, key=key)
    path = output or Path(f"{board}-{bundle.listed[14]}.ckb")
    data = bundle.encode()
    path.write_bytes(data)
    texts = {name: s.read_text() for name, s in _compiled(board, firmware_root()).items()}
    Path(f"{path}.names").write_text(json.dumps(names.table(texts), indent=1) + "\n")
    summary = _summary(bundle) | {"path": str(path), "bytes": len(data)}
    show(
        summary, as_json, lambda: print(f"{path}: {len(bundle.files)} files, {len(data):,} bytes")
    )


def _summary(bundle: Bundle) -> dict[str, Any]:
    return {
        "version": bundle.version,
        "text": bundle.listed[14],
        "site": bundle.listed[2],
        "board": bundle.listed[11],
        "abi": bundle.listed[12],
        "issued": bundle.listed[4],
        "files": {path: len(bundle.files[path]) for path in sorted(bundle.files)},
    }


@app.command("show")
def show_command(path: Path, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check a bundle against its signature and list what is in it."""
    bundle = load(path)
    wire.open_sign1(bundle.manifest, wire.FIRMWARE, keys.key_for(Home(home)))
    summary = _summary(bundle)

    def human() -> None:
        print(
            f"{summary['text']} for {summary['board']}, {utc(summary['issued'])}: good signature"
        )
        table(("file", "bytes"), summary["files"].items())

    show(summary, as_json, human)


@app.command("trace")
def trace_command(
    path: Annotated[
        Path, typer.Argument(metavar="NAMES", help="The .names file beside the bundle.")
    ],
) -> None:
    """Say of a station's traceback (standard input) what its functions are in the sources."""
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        raise ToolError(f"no {path}", Exit.USAGE, "bundle build writes one beside the bundle")
    print(names.translated(sys.stdin.read(), known), end="")


@app.command("mip")
def mip_command(
    board: Annotated[str, typer.Argument(help=f"One of: {', '.join(BOARDS)}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
) -> None:
    """Write the firmware of BOARD as a package for mpremote mip install: not signed."""
    from chargekeep_tools import mip

    if board not in BOARDS:
        raise ToolError(f"no board {board!r}", Exit.USAGE, f"one of: {', '.join(BOARDS)}")
    count = mip.write(board, output)
    print(f"{output}: {count} files; mpremote mip install --target / {output}/package.json")
