"""Board folders are complete, and their three descriptions of the wiring agree."""

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOARDS = sorted(path.parent for path in (ROOT / "boards").glob("*/board.json"))
NAMES = {"UNIX", "RPI_PICO", "RPI_PICO_W", "ESP32_GENERIC", "ESP32_GENERIC_S3", "ESP32_GENERIC_C3"}
on_chips = [path for path in BOARDS if path.name != "UNIX"]


def wiring(board: Path) -> dict:
    return json.loads((board / "config.json").read_text())


def test_boards_are_those_the_readme_promises():
    assert {path.name for path in BOARDS} == NAMES


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.name)
def test_board_is_described_as_upstream_does(board):
    fields = {"deploy", "docs", "features", "id", "images", "mcu", "product", "thumbnail", "url"}
    described = json.loads((board / "board.json").read_text())
    assert set(described) == fields | {"vendor"}
    assert "firmware/manifest.py" in (board / "manifest.py").read_text()


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.name)
def test_roles_are_known_to_the_firmware(board):
    from chargekeep.board import ROLES

    assert set(wiring(board)) <= set(ROLES)


@pytest.mark.parametrize("board", on_chips, ids=lambda path: path.name)
def test_pins_csv_names_what_config_wires_and_no_pin_serves_twice(board):
    named = {
        name: int(re.sub(r"\D", "", pin)) for name, pin in csv.reader((board / "pins.csv").open())
    }
    wired = wiring(board)
    expected = {
        "METER_TX": wired["meter"]["tx"],
        "METER_RX": wired["meter"]["rx"],
        "READER_TX": wired["reader"]["tx"],
        "READER_RX": wired["reader"]["rx"],
        "RELAY": wired["relay"]["pin"],
        "FEEDBACK": wired["feedback"]["pin"],
    }
    assert {name: named[name] for name in expected} == expected
    assert len(set(expected.values())) == len(expected)
    assert wired["meter"]["uart"] != wired["reader"]["uart"]


@pytest.mark.parametrize("board", on_chips, ids=lambda path: path.name)
def test_readme_shows_the_same_wiring(board):
    readme = (ROOT / "README.md").read_text()
    columns = ["RPI_PICO", "ESP32_GENERIC", "ESP32_GENERIC_S3", "ESP32_GENERIC_C3"]
    at = columns.index(board.name.removesuffix("_W")) + 2
    wired = wiring(board)
    expected = [
        [wired["meter"]["tx"], wired["meter"]["rx"]],
        [wired["reader"]["tx"], wired["reader"]["rx"]],
        [wired["relay"]["pin"]],
        [wired["feedback"]["pin"]],
    ]
    lines = [
        line
        for line in readme.splitlines()
        if re.match(r"\| (meter|reader|relay|contactor)", line)
    ]
    shown = [[int(number) for number in re.findall(r"\d+", line.split("|")[at])] for line in lines]
    assert shown == expected


@pytest.mark.parametrize("board", sorted((ROOT / "boards").glob("ESP32*")), ids=lambda p: p.name)
def test_partitions_do_not_overlap_and_fill_four_megabytes(board):
    rows = [
        [field.strip() for field in line.split(",")]
        for line in (board / "partitions.csv").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    end = 0x9000
    for name, _type, _subtype, offset, size, _flags in rows:
        assert int(offset, 16) == end, name
        end += int(size, 16)
    assert end == 4 * 1024 * 1024
    assert next(row for row in rows if row[0] == "ledger")[4] == "0x40000"
