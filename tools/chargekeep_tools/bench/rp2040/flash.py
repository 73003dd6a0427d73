"""The board's flash chip: SPI NOR with the timing of a W25Q16JV and an own unique id, which loses
power as a real one does: an erase or program that was under way stays half done."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rp2040py.peripherals import ssi

from chargekeep_tools.bench.rp2040.filesystem import FLASH_BYTES

# Winbond W25Q16JV, section 9.6, typical times in ns
SECTOR_ERASE_NS = 45_000_000
BLOCK_ERASE_NS = 150_000_000
PAGE_PROGRAM_NS = 400_000
_BUSY = 0x01  # status register 1, bit 0
_READ_UNIQUE_ID = 0x4B  # followed by 4 dummy bytes
_POLL_NS = 50_000  # the chip's ROM polls BUSY with interrupts off: no need to emulate each poll
_SSI_PAGE = 0x18000  # of the address space, in 4 KiB


@dataclass
class Operation:
    """One erase or program: what the bytes were, what they become, from when to when (ns)."""

    kind: str
    address: int
    before: bytes
    after: bytes
    start: float
    end: float


Left = tuple[bytes, Operation | None]
"""What a power cut leaves: all that the flash holds; the operation left half done, or None."""


class NorFlash(ssi.RPSSI):
    """In place of rp2040py's flash, which is never busy. `erases`, `programs` count operations.

    `on_operation(operation)`, where set, is told of each at its start.
    """

    def __init__(self, chip: Any, unique_id: bytes):
        super().__init__(chip, "SSI")
        self.unique_id = unique_id
        self.erases = self.programs = 0
        self.operation: Operation | None = None
        self.on_operation: Callable[[Operation], None] | None = None

    @classmethod
    def install(cls, chip: Any, unique_id: bytes) -> "NorFlash":
        former = chip.ssi
        flash = cls(chip, unique_id)
        chip_select = chip.qspi[1]
        for listener in list(chip_select._listeners):
            if getattr(listener, "__self__", None) is former:
                chip_select._listeners.discard(listener)
        chip.ssi = chip.peripherals[_SSI_PAGE] = flash
        return flash

    @property
    def busy_ns(self) -> float:
        """Until the operation under way ends; 0 when there is none."""
        left = self.operation.end - self.rp2040.clock.nanos if self.operation else 0
        return max(0.0, left)

    def _shift_byte(self, byte_out: int) -> int:
        answer = super()._shift_byte(byte_out)
        position = len(self._tx_buffer) - 1
        if position == 0:
            return answer
        if self._tx_buffer[0] == ssi.CMD_READ_STATUS_1 and self.busy_ns:
            self.rp2040.clock.tick(min(self.busy_ns, _POLL_NS))
            return answer | _BUSY
        if self._tx_buffer[0] == _READ_UNIQUE_ID:
            return self.unique_id[position - 5] if 5 <= position < 13 else 0
        return answer

    def _extent(self) -> tuple[str, int, int, int] | None:
        """What the command that ends now will do: kind, address, size, duration."""
        sent = self._tx_buffer
        if not self._write_enabled or len(sent) < 4:
            return None
        address = self._address_from_buffer()
        if sent[0] == ssi.CMD_SECTOR_ERASE:
            return "erase", address & ~0xFFF, 0x1000, SECTOR_ERASE_NS
        if sent[0] == ssi.CMD_BLOCK_ERASE:
            return "erase", address & ~0xFFFF, 0x10000, BLOCK_ERASE_NS
        if sent[0] == ssi.CMD_PAGE_PROGRAM and len(sent) > 4:
            return "program", address, min(256, len(sent) - 4), PAGE_PROGRAM_NS
        return None

    def _apply_command(self) -> None:
        extent = self._extent()
        if extent is None:
            super()._apply_command()
            return
        kind, address, size, duration = extent
        memory, now = self.rp2040.flash, self.rp2040.clock.nanos
        before = bytes(memory[address : address + size])
        super()._apply_command()
        after = bytes(memory[address : address + size])
        self.operation = Operation(kind, address, before, after, now, now + duration)
        self.erases += kind == "erase"
        self.programs += kind == "program"
        if self.on_operation:
            self.on_operation(self.operation)

    def after_a_cut(self, chance: random.Random) -> Left:
        """What a power cut now would leave: the operation under way is half done, bit by bit."""
        content, cut = bytearray(self.rp2040.flash[:FLASH_BYTES]), self.operation
        if not self.busy_ns or not cut:
            return bytes(content), None
        done = 1 - self.busy_ns / (cut.end - cut.start)
        torn = bytearray(cut.before)
        for i, (before, after) in enumerate(zip(cut.before, cut.after)):
            for bit in range(8):
                if (before ^ after) >> bit & 1 and chance.random() < done:
                    torn[i] ^= 1 << bit
        content[cut.address : cut.address + len(torn)] = torn
        return bytes(content), cut
