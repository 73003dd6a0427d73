"""`chargekeep log` on images, on batches and on a running station."""

import asyncio
import csv
import json
import struct
from pathlib import Path

import pyarrow.parquet
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mptest import at_last
from nor_sim import Clock, MemoryStore, NorSim
from typer.testing import CliRunner

from chargekeep.ledger.ring import Ledger
from chargekeep_tools import wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.log.cli import app

LOG = bytes(range(16))
KEY = b"k" * 32
STATION = Ed25519PrivateKey.from_private_bytes(bytes(32))


async def sign(message: bytes) -> bytes:
    return STATION.sign(message)


@pytest.fixture
def ledger():
    device = NorSim(4)
    store = MemoryStore()
    Ledger.format(device, LOG, KEY, store)
    ledger = Ledger(device, None, Clock(), store)
    ledger.mount()
    for i in range(100):
        ledger.append(5, [i, None, b"\x01\x02"])
    asyncio.run(ledger.append_head(sign))
    return ledger


@pytest.fixture
def image(ledger, tmp_path):
    path = tmp_path / "flash.bin"
    path.write_bytes(ledger.device.data)
    return str(path)


@pytest.fixture
def uploads(ledger, tmp_path):
    after, data = 0, []
    while batch := at_last(ledger.batch(after, 1000)):
        first, after, link, runs = batch
        body = {2: "site", 3: "s1", 10: LOG, 11: first, 12: link}
        body[13] = [[a, b, bytes(c)] for a, b, c, _ in runs]
        data.append(wire.seal_batch(STATION, body))
    path = tmp_path / "uploads.cborseq"
    path.write_bytes(b"".join([*data[::-1], data[0]]))  # out of order, one twice
    return str(path)


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, ToolError):
        assert result.exception.exit_code == status, result.exception
        return result.exception
    assert result.exit_code == status, result.output
    return result.output


@pytest.mark.parametrize("kind", ["image", "uploads"])
def test_verify(kind, request, ledger):
    path = request.getfixturevalue(kind)
    seq, link = ledger.head
    told = json.loads(
        call("verify", path, "--seal-key", KEY.hex(), "--anchor", f"{seq}:{link.hex()}", "--json")
    )
    assert told["ok"] and told["sealed"] and told["anchored"] and told["records"] == 101
    assert told["head"] == [seq, link.hex()]
    assert "good" in call("verify", path)
    ahead = f"{seq + 1}:{link.hex()}"
    assert "PROBLEM anchor" in call("verify", path, "--anchor", ahead, status=Exit.FAILED)
    assert "PROBLEM" in call("verify", path, "--seal-key", "00" * 32, status=Exit.FAILED)


def test_changed_uploads_fail(uploads):
    with open(uploads, "r+b") as f:
        f.seek(300)
        byte = f.read(1)[0] ^ 1
        f.seek(300)
        f.write(bytes([byte]))
    assert "PROBLEM" in call("verify", uploads, status=Exit.FAILED)


def test_dump(image, uploads):
    for path in (image, uploads):
        lines = call("dump", path, "--from", "99", "--json").splitlines()
        assert json.loads(lines[0])["seq"] == 99
        assert "head" in call("dump", path)


def test_export(image, tmp_path):
    call("export", image, tmp_path / "log.csv")
    call("export", image, tmp_path / "log.parquet")
    with open(tmp_path / "log.csv") as f:
        rows = list(csv.DictReader(f))
    table = pyarrow.parquet.read_table(tmp_path / "log.parquet").to_pylist()
    assert len(rows) == len(table) == 101
    assert rows[7]["body"] == table[7]["body"] == '[7, null, "0102"]'
    assert table[7]["time"] == 1_800_000_000 and table[7]["moved_from"] is None
    call("export", image, tmp_path / "log.xls", status=Exit.USAGE)
    call("export", image, tmp_path / "x.csv", "--seal-key", "00" * 32, status=Exit.FAILED)
    assert not (tmp_path / "x.csv").exists()


def dump(ledger: bytes, start: int = 40 * 4096, storage: int = 44 * 4096) -> bytes:
    """The flash of an RP2040 whose image ends before `start`, with a file system at `storage`."""
    flash = bytearray(b"\xff" * (64 * 4096))
    pointers, entries, xip = 0x300, (0x400, 0x420), 0x10000000
    words = (0x7188EBF2, xip + pointers, xip + pointers + 8, 0, 0xE71AA390)
    struct.pack_into("<5I", flash, 0x120, *words)
    struct.pack_into("<2I", flash, pointers, *(xip + at for at in entries))
    struct.pack_into("<HHII", flash, entries[0], 5, 0x5052, 0x68F465DE, xip + 30 * 4096 + 12)
    struct.pack_into("<HHII", flash, entries[1], 7, 0x5052, 0, xip + storage)
    flash[start : start + len(ledger)] = ledger
    return bytes(flash)


def test_dumps_of_a_whole_flash(image, tmp_path):
    ledger = Path(image).read_bytes()
    path = tmp_path / "dump.bin"
    path.write_bytes(dump(ledger))
    assert "101 records" in call("verify", path, "--seal-key", KEY.hex())
    assert "101 records" in call("verify", path, "--offset", "0x28000")
    assert "head" in call("dump", path)
    call("export", path, tmp_path / "log.csv")
    # The first sectors of the ring erased: what is left still tells where it begins
    path.write_bytes(dump(b"\xff" * 4096 + ledger[4096:]))
    assert "PROBLEM missing" in call("verify", path, status=Exit.FAILED)
    # Elsewhere, as an image of one's own may have it
    path.write_bytes(dump(ledger, 48 * 4096))
    assert "no ledger between" in str(call("verify", path, status=Exit.VERIFY))
    assert "101 records" in call("verify", path, "--offset", str(48 * 4096))
    for wrong in ("0x1000", "-1", "0xffffffff"):
        assert "no ledger at" in str(call("verify", path, "--offset", wrong, status=Exit.USAGE))
    call("verify", path, "--offset", "there", status=2)
    path.write_bytes(b"\xff" * (1 << 21))
    assert "no ledger" in call("verify", path, status=Exit.FAILED)


def test_wrong_use(tmp_path, image):
    call("verify", tmp_path / "none", status=Exit.USAGE)
    call("verify", image, "--anchor", "12", status=Exit.USAGE)
    call("verify", image, "--seal-key", "zz", status=Exit.USAGE)
