"""An ARM PL011 UART at line rate: FIFOs, level and time-out interrupts, overrun.

In place of rp2040py's, which raises the transmit interrupt for ever, so that MicroPython's driver
hangs. Register offsets and bits: RP2040 datasheet, section 4.2.8.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from rp2040py.irq import IRQ
from rp2040py.peripherals.dma import DREQChannel
from rp2040py.peripherals.uart import RPUART, IUARTDMAChannels

_DR, _RSR, _FR, _LCR_H, _CR, _IFLS = 0x00, 0x04, 0x18, 0x2C, 0x30, 0x34
_IMSC, _RIS, _MIS, _ICR, _DMACR = 0x38, 0x3C, 0x40, 0x44, 0x48
_RX, _TX, _RT, _OE = 1 << 4, 1 << 5, 1 << 6, 1 << 10  # interrupts
_OVERRUN = 0x800  # in DR, beside the byte
_ENABLE, _LOOPBACK, _TX_ENABLE, _RX_ENABLE = 1 << 0, 1 << 7, 1 << 8, 1 << 9  # CR
_FIFO, _PARITY, _STOP2 = 1 << 4, 1 << 1, 1 << 3  # LCR_H
_LEVELS = (4, 8, 16, 24, 28)  # of 32: 1/8 to 7/8
_TIMEOUT_BITS = 32
_ADDRESS_PAGES = (0x40034, 0x40038)


class Pl011(RPUART):
    """`on_byte(byte)` when a byte has left the pin; `feed(byte)` when one has arrived."""

    on_byte: Callable[[int], None] | None

    def __init__(self, chip: Any, index: int):
        irq = (IRQ.UART0, IRQ.UART1)[index]
        dreq = (
            IUARTDMAChannels(rx=DREQChannel.DREQ_UART0_RX, tx=DREQChannel.DREQ_UART0_TX),
            IUARTDMAChannels(rx=DREQChannel.DREQ_UART1_RX, tx=DREQChannel.DREQ_UART1_TX),
        )[index]
        super().__init__(chip, f"UART{index}", irq, dreq)
        self._sent = chip.clock.create_alarm(self._byte_sent)
        self._silent = chip.clock.create_alarm(self._receive_timeout)
        self.overruns = 0
        self._power_on()

    @staticmethod
    def install(chip: Any) -> list["Pl011"]:
        uarts = [Pl011(chip, 0), Pl011(chip, 1)]
        for index, uart in enumerate(uarts):
            chip.uart[index] = chip.peripherals[_ADDRESS_PAGES[index]] = uart
        return uarts

    def _power_on(self) -> None:
        self._tx: deque[int] = deque()
        self._rx: deque[int] = deque()
        self._shifting: int | None = None
        self._levels = 0x12  # IFLS: half full, both ways
        self._raw = 0  # RIS
        self._control = _TX_ENABLE | _RX_ENABLE
        self._lost = False

    def reset(self) -> None:
        super().reset()
        self._sent.cancel()
        self._silent.cancel()
        self._power_on()

    @property
    def bit_ns(self) -> float:
        divider = self.baud_divider
        return 16e9 * divider / self.rp2040.clk_peri if divider else 1e9 / 115_200

    @property
    def frame_ns(self) -> float:
        """Start, data, parity and stop bits of one byte."""
        line = self._line_ctrl_register
        data = 5 + (line >> 5 & 3)
        return self.bit_ns * (2 + data + bool(line & _PARITY) + bool(line & _STOP2))

    @property
    def _depth(self) -> int:
        return 32 if self._line_ctrl_register & _FIFO else 1

    def _level(self, select: int) -> int:
        return _LEVELS[min(select & 7, 4)]

    @property
    def _tx_level(self) -> int:
        return self._level(self._levels) if self._depth > 1 else 0

    @property
    def _rx_level(self) -> int:
        return self._level(self._levels >> 3) if self._depth > 1 else 1

    def check_interrupts(self) -> None:
        self.rp2040.set_interrupt(self.irq, bool(self._raw & self._interrupt_mask))

    def _shift(self) -> None:
        running = self._control & _ENABLE and self._control & _TX_ENABLE
        if self._shifting is None and self._tx and running:
            self._shifting = self._tx.popleft()
            if len(self._tx) == self._tx_level:  # the FIFO empties through its level
                self._raw |= _TX
            self._sent.schedule(self.frame_ns)

    def _byte_sent(self) -> None:
        byte, self._shifting = self._shifting, None
        self._shift()
        self.check_interrupts()
        if byte is None:
            return
        if self._control & _LOOPBACK:
            self.feed(byte)
        elif self.on_byte:
            self.on_byte(byte)

    def feed(self, byte: int) -> None:
        """The stop bit of `byte` has arrived at the RX pin."""
        if not (self._control & _ENABLE and self._control & _RX_ENABLE):
            return
        if len(self._rx) >= self._depth:
            self._lost = True
            self.overruns += 1
            self._raw |= _OE
        else:
            self._rx.append(byte | (_OVERRUN if self._lost else 0))
            self._lost = False
            if len(self._rx) >= self._rx_level:
                self._raw |= _RX
        self._silent.schedule(_TIMEOUT_BITS * self.bit_ns)
        self.check_interrupts()

    def _receive_timeout(self) -> None:
        if self._rx:
            self._raw |= _RT
            self.check_interrupts()

    def _take(self) -> int:
        value = self._rx.popleft() if self._rx else 0
        if len(self._rx) < self._rx_level:
            self._raw &= ~_RX
        if self._rx:
            self._silent.schedule(_TIMEOUT_BITS * self.bit_ns)
        else:
            self._raw &= ~_RT
            self._silent.cancel()
        self.check_interrupts()
        return value

    def _flags(self) -> int:
        return (
            1  # clear to send
            | (0x08 if self._shifting is not None or self._tx else 0)
            | (0 if self._rx else 0x10)
            | (0x20 if len(self._tx) >= self._depth else 0)
            | (0x40 if len(self._rx) >= self._depth else 0)
            | (0 if self._tx else 0x80)
        )

    def read_uint32(self, offset: int) -> int:
        if offset == _DR:
            return self._take()
        values = {
            _RSR: 0,
            _FR: self._flags(),
            _CR: self._control,
            _IFLS: self._levels,
            _RIS: self._raw,
            _MIS: self._raw & self._interrupt_mask,
            _ICR: 0,
            _DMACR: 0,
        }
        return values[offset] if offset in values else super().read_uint32(offset)

    def write_uint32(self, offset: int, value: int) -> None:
        if offset == _DR:
            if len(self._tx) < self._depth:
                self._tx.append(value & 0xFF)
            if len(self._tx) > self._tx_level:
                self._raw &= ~_TX
            self._shift()
        elif offset == _LCR_H:
            self._line_ctrl_register = value
        elif offset == _CR:
            super().write_uint32(offset, value)
            self._control = value & 0xFF87
            self._shift()
        elif offset == _IFLS:
            self._levels = value & 0x3F
        elif offset == _IMSC:
            self._interrupt_mask = value & 0x7FF
        elif offset == _ICR:
            self._raw &= ~self.raw_write_value
        elif offset not in (_RSR, _DMACR):
            super().write_uint32(offset, value)
            return
        self.check_interrupts()
