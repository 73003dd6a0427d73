"""What a board's secrets are sealed under, with stand-ins for what stock MicroPython documents:
machine.mem32, machine.unique_id, sys.implementation."""

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
    """What one board has: its name, its MAC address, and fuses by address."""

    def __init__(self, chip="ESP32S3", mac=MAC, fuse=0x01020304):
        self.machine = f"Generic {chip} module with {chip}"
        self.mac = mac
        self.fuses = {ID_AT[chip] + 4 * i: fuse + i for i in range(8)} if chip in ID_AT else {}

    def open(self, monkeypatch):
        stubs = {
            "esp32": SimpleNamespace(Partition=None),
            "network": SimpleNamespace(STA_IF=0, WLAN=None),
            "machine": SimpleNamespace(mem32=self.fuses, unique_id=lambda: self.mac),
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
def test_a_secret_is_what_the_fuses_say(monkeypatch, chip):
    board = Chip(chip)
    first = board.open(monkeypatch).secret()
    assert len(first) == 6 + (32 if chip in ID_AT else 0)
    assert board.open(monkeypatch).secret() == first


def test_flash_opens_on_its_own_chip_only(monkeypatch, tmp_path):
    board = Chip()
    SealedStore(str(tmp_path), board.open(monkeypatch).secret()).write("network", b"password")
    another = Chip(mac=MAC[:-1] + b"\2", fuse=5)
    known_mac = Chip(fuse=5)  # the MAC address is on the air
    for other in (another, known_mac):
        with pytest.raises(ChargekeepError) as e:
            SealedStore(str(tmp_path), other.open(monkeypatch).secret()).read("network")
        assert e.value.code == errors.SECRET
    kept = SealedStore(str(tmp_path), board.open(monkeypatch).secret())
    assert kept.read("network") == b"password"


@pytest.mark.parametrize(
    ("now", "hint"), [(946684805, None), (1609459200, None), (1_800_000_000, 1_800_000_000)]
)
def test_a_clock_that_nobody_set_gives_no_hint(monkeypatch, now, hint):
    from chargekeep import timebase

    board = Chip().open(monkeypatch)
    monkeypatch.setattr(timebase, "unix_clock", lambda: now)
    assert board.time_hint() == hint
