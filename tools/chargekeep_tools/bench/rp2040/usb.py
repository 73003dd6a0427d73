"""The host end of the board's USB serial port, as an object like pyserial's.

rp2040py's host answers an idle endpoint every 14 us of the board's time, which keeps the chip
busy with USB; a real host just does not acknowledge until it has something to send.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

_FLUSH_S = 0.01  # what is under way arrives within this time
_EVERY_S = 0.001


class UsbSerial:
    """`read`, `write`, `inWaiting`: time on the board goes on while the host waits, not longer.

    cdc: rp2040py's host end. run(seconds, until): lets the board run.
    """

    timeout: float | None = 10.0

    def __init__(self, cdc: Any, run: Callable[[float, Callable[[], bool]], bool]):
        self._cdc = cdc
        self._run = run
        self._unsent: deque[int] = deque()
        self._wanted: int | None = None  # size of the board's read that waits for us
        self.received = bytearray()
        self.connected = False
        self.rts = self.dtr = True
        cdc.on_serial_data = self.received.extend
        cdc.on_device_connected = self._connect
        usb = cdc.usb
        self._answer, self._former_reset = usb.on_endpoint_read, usb.on_reset
        usb.on_endpoint_read = self._endpoint_read
        usb.on_reset = self._reset

    def _connect(self) -> None:
        self.connected = True

    def _reset(self) -> None:
        self.connected = False
        self._wanted = None
        if self._former_reset:
            self._former_reset()

    def _endpoint_read(self, endpoint: int, size: int) -> None:
        if endpoint == self._cdc._out_endpoint > 0 and self._cdc.tx_fifo.empty:
            self._wanted = size
        else:
            self._answer(endpoint, size)

    def pump(self) -> None:
        """Hand the board what it has room for."""
        fifo = self._cdc.tx_fifo
        while self._unsent and fifo.item_count < fifo.size:
            fifo.push(self._unsent.popleft())
        if self._wanted is not None and not fifo.empty:
            size, self._wanted = self._wanted, None
            self._answer(self._cdc._out_endpoint, size)

    def write(self, data: bytes) -> int:
        self._unsent.extend(data)
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """`size` bytes, or fewer after `timeout` seconds of the board's time."""
        if len(self.received) < size:
            self._run(self.timeout or 1e9, lambda: len(self.received) >= size)
        data = bytes(self.received[:size])
        del self.received[: len(data)]
        return data

    def inWaiting(self) -> int:  # pyserial's name
        self._run(_FLUSH_S, lambda: False)
        return len(self.received)

    def close(self) -> None:
        pass
