"""The boot ROM of an ESP32 on a pseudo-terminal: what esptool needs to read and write its flash.

Espressif, esptool documentation, "Serial Protocol": SLIP frames, commands 0x02 to 0x13. It stands
for a chip in download mode with 4 MB of flash; it answers `--no-stub --before no-reset` only,
since a pseudo-terminal has no reset lines and nothing here runs Xtensa code.
"""

import hashlib
import os
import pty
import struct
import threading
import tty
import zlib

SIZE = 4 << 20
_END, _ESCAPE = 0xC0, 0xDB
_CHIP_MAGIC_AT, _CHIP_MAGIC = 0x40001000, 0x00F01D83
_SPI_COMMAND, _SPI_RESULT = 0x3FF42000, 0x3FF42080
_FLASH_ID = 0x16C84  # 4 MB by its third byte


class EspRom:
    """`flash` is the chip's flash; `port` is where esptool finds it while in a `with` block."""

    def __init__(self) -> None:
        self.flash = bytearray(b"\xff" * SIZE)
        self.erased: list[tuple[int, int]] = []
        self._registers = {_CHIP_MAGIC_AT: _CHIP_MAGIC, _SPI_RESULT: _FLASH_ID}
        self._at = 0
        self._inflate = zlib.decompressobj()

    def __enter__(self) -> "EspRom":
        self._fd, slave = pty.openpty()
        tty.setraw(slave)
        self._slave = slave
        self.port = os.ttyname(slave)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._slave)

    def _serve(self) -> None:
        frame: bytearray | None = None
        while True:
            try:
                data = os.read(self._fd, 4096)
            except OSError:
                os.close(self._fd)
                return
            for byte in data:
                if byte != _END:
                    if frame is not None:
                        frame.append(byte)
                elif frame:
                    self._answer(
                        bytes(frame).replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
                    )
                    frame = None
                else:
                    frame = bytearray()

    def _answer(self, request: bytes) -> None:
        _, command, length, _ = struct.unpack_from("<BBHI", request)
        value, data = self._do(command, request[8 : 8 + length])
        reply = struct.pack("<BBHI", 1, command, len(data) + 4, value) + data + bytes(4)
        escaped = reply.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
        for _ in range(8 if command == 0x08 else 1):  # a ROM answers SYNC eight times
            os.write(self._fd, b"\xc0" + escaped + b"\xc0")

    def _do(self, command: int, data: bytes) -> tuple[int, bytes]:
        words = struct.unpack_from(f"<{len(data) // 4}I", data)
        if command == 0x08:  # SYNC
            return 0x20120707, b""
        if command == 0x09:  # WRITE_REG
            if words[0] != _SPI_COMMAND:  # its bits go back to 0 when the command is done
                self._registers[words[0]] = words[1]
            if words[0] == _SPI_RESULT:
                self._registers[_SPI_RESULT] = _FLASH_ID
        elif command == 0x0A:  # READ_REG
            return self._registers.get(words[0], 0), b""
        elif command in (0x02, 0x10):  # FLASH_BEGIN, FLASH_DEFL_BEGIN
            self._erase(words[3], words[0])
            self._at = words[3]
            self._inflate = zlib.decompressobj()
        elif command in (0x03, 0x11):  # FLASH_DATA, FLASH_DEFL_DATA
            block = data[16 : 16 + words[0]]
            self._program(self._inflate.decompress(block) if command == 0x11 else block)
        elif command == 0x13:  # SPI_FLASH_MD5
            at, size = words[:2]
            return 0, hashlib.md5(self.flash[at : at + size]).hexdigest().encode()
        elif command == 0x0E:  # READ_FLASH_SLOW
            at, size = words[:2]
            return 0, bytes(self.flash[at : at + size]).ljust(64, b"\0")
        return 0, b""

    def _erase(self, at: int, size: int) -> None:
        start, end = at // 4096 * 4096, -(-(at + size) // 4096) * 4096
        self.flash[start:end] = b"\xff" * (end - start)
        self.erased.append((start, end))

    def _program(self, data: bytes) -> None:
        for byte in data:
            self.flash[self._at] &= byte
            self._at += 1
