"""What a board's secrets are sealed under, with stand-ins for what stock MicroPython documents:
esp32.NVS, machine.mem32, machine.unique_id, sys.implementation."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import micropython  # noqa: F401  (tests/shim)
import pytest

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.sealed import SealedStore

MAC = bytes.fromhex("7cdfa1000001")
ID_AT = {"ESP32": 0x3FF5A078, "ESP32S3": 0x6000705C, "ESP32C3": 0x6000885C}


class Chip:
    """What one board has: fuses by address, and NVS as it is committed."""

    def __init__(self, chip="ESP32S3", mac=MAC, fuse=0x01020304):
        self.machine = f"Generic {chip} module with {chip}"
        self.mac = mac
        self.fuses = {ID_AT[chip] + 4 * i: fuse + i for i in range(8)} if chip in ID_AT else {}
        self.nvs = {}
        self.broken = None

    def open(self, monkeypatch):
        chip = self

        class NVS:
            def __init__(self, namespace):
                self.space = namespace
                self.pending = {}

            def get_blob(self, key, buffer):
                if chip.broken:
                    raise OSError(chip.broken, "ESP_ERR")
                if (self.space, key) not in chip.nvs:
                    raise OSError(-0x1102, "ESP_ERR_NVS_NOT_FOUND")
                value = chip.nvs[self.space, key]
                buffer[: len(value)] = value
                return len(value)

            def set_blob(self, key, value):
                self.pending[self.space, key] = bytes(value)

            def commit(self):
                chip.nvs |= self.pending

        stubs = {
            "esp32": SimpleNamespace(NVS=NVS, Partition=None),
            "network": SimpleNamespace(STA_IF=0, WLAN=None),
            "machine": SimpleNamespace(mem32=self.fuses, unique_id=lambda: chip.mac),
        }
        for name, members in stubs.items():
            module = ModuleType(name)
            module.__dict__.update(members.__dict__)
            monkeypatch.setitem(sys.modules, name, module)
        for name in ("port_machine", "port_esp32"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys.implementation, "_machine", self.machine, raising=False)
        return importlib.import_module("port_esp32").PortBoard({})


@pytest.mark.parametrize("chip", ["ESP32", "ESP32S3", "ESP32C3", "ESP32S9"])
def test_a_secret_is_made_once_and_kept(monkeypatch, chip):
    board = Chip(chip)
    first = board.open(monkeypatch).secret()
    assert len(first) == 6 + 32 + (32 if chip in ID_AT else 0)
    assert board.open(monkeypatch).secret() == first
    assert [*board.nvs] == [("chargekeep", "secret")]


def test_no_copy_of_one_place_opens_anything(monkeypatch, tmp_path):
    board = Chip()
    SealedStore(str(tmp_path), board.open(monkeypatch).secret()).write("network", b"password")
    same_flash = Chip(mac=MAC[:-1] + b"\2", fuse=5)  # another chip, all of the flash moved to it
    same_flash.nvs = dict(board.nvs)
    same_fuses = Chip()  # the chip known, of the flash the files alone
    for other in (same_flash, same_fuses):
        with pytest.raises(ChargekeepError) as e:
            SealedStore(str(tmp_path), other.open(monkeypatch).secret()).read("network")
        assert e.value.code == errors.SECRET
    known_mac = Chip(fuse=5)
    known_mac.nvs = dict(board.nvs)
    with pytest.raises(ChargekeepError):  # the flash and the MAC address, which is on the air
        SealedStore(str(tmp_path), known_mac.open(monkeypatch).secret()).read("network")
    kept = SealedStore(str(tmp_path), board.open(monkeypatch).secret())
    assert kept.read("network") == b"password"


def test_nvs_that_fails_is_not_written_over(monkeypatch):
    board = Chip()
    board.open(monkeypatch).secret()
    before = dict(board.nvs)
    board.broken = -0x1101
    with pytest.raises(ChargekeepError) as e:
        board.open(monkeypatch).secret()
    assert e.value.code == errors.BOARD and board.nvs == before


@pytest.mark.parametrize(
    ("now", "hint"), [(946684805, None), (1609459200, None), (1_800_000_000, 1_800_000_000)]
)
def test_a_clock_that_nobody_set_gives_no_hint(monkeypatch, now, hint):
    from chargekeep import timebase

    board = Chip().open(monkeypatch)
    monkeypatch.setattr(timebase, "unix_clock", lambda: now)
    assert board.time_hint() == hint
