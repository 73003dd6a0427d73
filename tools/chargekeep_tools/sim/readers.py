"""Energy meters that do not speak Modbus, on pseudo-terminals: SML, IEC 62056-21, S0 pulses."""

import random
import struct
import threading
import time
from pathlib import Path

from chargekeep_tools.sim.line import Peer, xor
from chargekeep_tools.sim.meter import Counting, EnergyCounter

IMPORT = b"\x01\x00\x01\x08\x00\xff"  # OBIS 1-0:1.8.0*255
POWER = b"\x01\x00\x10\x07\x00\xff"  # 1-0:16.7.0*255


class CountingPeer(Counting, Peer):
    """A meter with a settable load; `corrupt` is the probability of a damaged readout."""

    def __init__(
        self, link: Path | None = None, wh: float = 180_200, power_w: int = 0, seed: int = 1
    ):
        super().__init__(link)
        self.counter = EnergyCounter(wh, power_w, time.monotonic_ns)
        self.corrupt = 0.0
        self.readouts = 0
        self._random = random.Random(seed)

    def readout(self, data: bytes) -> bytes:
        """`data`, or what a bad line makes of it."""
        self.readouts += 1
        if self._random.random() >= self.corrupt:
            return data
        at = self._random.randrange(len(data))
        flipped = data[at] ^ 1 << self._random.randrange(7)
        return data[:at] + bytes([flipped]) + data[at + 1 :]


def crc16_x25(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return crc ^ 0xFFFF


def _entry(obis: bytes, unit: int, scaler: int, value: int) -> bytes:
    number = b"\x59" + struct.pack(">q", value)
    head = b"\x77\x07" + obis + b"\x65\x00\x00\x01\x82\x01"  # status, no time
    return head + bytes([0x62, unit, 0x52, scaler & 0xFF]) + number + b"\x01"


def sml_telegram(wh: float, power_w: int | None) -> bytes:
    """An SML file with one list: the register in tenths of a Wh and, if told, the power in W."""
    entries = [_entry(IMPORT, 30, -1, int(wh * 10))]
    if power_w is not None:
        entries.append(_entry(POWER, 27, 0, power_w))
    owner = b"\x0b\x0a\x01CKP\x00\x00\x00\x00\x07"
    message = b"\x76\x05\x00\x00\x00\x01\x62\x00\x62\x00\x72\x63\x07\x01\x77\x01" + owner
    message += b"\x01\x01" + bytes([0x70 | len(entries)]) + b"".join(entries)
    message += b"\x01\x01\x63\x00\x00\x00"
    fill = -len(message) % 4
    whole = b"\x1b" * 4 + b"\x01" * 4 + message.replace(b"\x1b" * 4, b"\x1b" * 8) + bytes(fill)
    whole += b"\x1b" * 4 + bytes([0x1A, fill])
    return whole + struct.pack("<H", crc16_x25(whole))


class SimSml(CountingPeer):
    """Pushes a telegram every `period_s` at 9600 8N1. `tells_power`: 16.7.0 as well."""

    period_s = 1.0
    tells_power = True

    def play(self) -> None:
        while not self.stopped.wait(self.period_s):
            telegram = sml_telegram(self.wh, self.power_w if self.tells_power else None)
            self.send(self.readout(telegram), 9600)


def even_parity(text: str) -> bytes:
    """7E1 as the bytes of 8N1."""
    return bytes(c | (c.bit_count() & 1) << 7 for c in text.encode())


class SimIec62056(CountingPeer):
    """Answers a mode C sign-on at 300 baud and reads out at 9600 (`5`)."""

    def play(self) -> None:
        heard = b""
        while not self.stopped.is_set():
            heard = (heard + bytes(c & 0x7F for c in self.receive(0.1)))[-64:]
            if heard.endswith(b"/?!\r\n"):
                heard = b""
                self.stopped.wait(0.17 + 0.3)  # the request's time on the line, and to react
                self.send(even_parity("/CKP5chargekeep\r\n"), 300)
            elif heard.endswith(b"\x06050\r\n"):
                heard = b""
                self.stopped.wait(0.2 + 0.3)
                self.send(self.readout(self._data()), 9600)

    def _data(self) -> bytes:
        lines = [
            "F.F(00)",
            "0.0.0(12345678)",
            f"1-0:1.8.0*255({self.wh / 1000:010.3f}*kWh)",
            "1-0:2.8.0*255(000000.000*kWh)",
            f"1-0:16.7.0*255({self.power_w / 1000:06.3f}*kW)",
            *(f"1-0:1.8.0*{n:02d}({self.wh / 1100:010.3f}*kWh)" for n in range(1, 13)),
            "!",
        ]
        block = "\r\n".join(lines) + "\r\n\x03"
        return even_parity("\x02" + block + chr(xor(block.encode())))


class SimPulses(Counting):
    """An S0 output: a byte in the file at `path` for each pulse."""

    def __init__(self, path: Path, per_kwh: int = 1000, wh: float = 180_200, power_w: int = 0):
        self.path = str(path)
        self.counter = EnergyCounter(wh, power_w, time.monotonic_ns)
        self._per_kwh = per_kwh
        self._told = self._pulses
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sim pulses")

    @property
    def _pulses(self) -> int:
        return int(self.counter.wh * self._per_kwh / 1000)

    def __enter__(self) -> "SimPulses":
        Path(self.path).touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            while self._told < self._pulses:
                self._told += 1
                with open(self.path, "ab") as file:
                    file.write(b".")
