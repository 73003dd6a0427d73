"""mpremote's transport over any line that has pyserial's methods, and its time."""

from typing import Any, Protocol

from mpremote.transport_serial import SerialTransport


class SerialLine(Protocol):
    """What of pyserial's `Serial` the transport uses."""

    timeout: float | None
    rts: bool
    dtr: bool

    def read(self, size: int = 1, /) -> bytes: ...
    def write(self, data: bytes, /) -> int | None: ...
    def inWaiting(self) -> int: ...
    def close(self) -> None: ...


class LineTransport(SerialTransport):
    """mpremote's transport on `line`; time-outs are in the time of the line."""

    def __init__(self, line: SerialLine, name: str):
        self.serial: Any = line
        self.device_name = name
        self.in_raw_repl = False
        self.use_raw_paste = True
        self.mounted = False
        self.is_pty = False

    def read_until(
        self,
        min_num_bytes: int,
        ending: bytes,
        timeout: float | None = 10,
        data_consumer: Any = None,
        timeout_overall: float | None = None,
    ) -> bytes:
        # mpremote's own sleeps between looks at the line, and counts that as the board's time.
        data = b""
        before, self.serial.timeout = self.serial.timeout, timeout
        try:
            while not data.endswith(ending):
                byte = self.serial.read(1)
                if not byte:
                    break
                if data_consumer:
                    data_consumer(byte)
                    data = byte
                else:
                    data += byte
        finally:
            self.serial.timeout = before
        return data
