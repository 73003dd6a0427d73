# SHA-512 (FIPS 180-4), streaming; stock MicroPython has none. A block of 128 bytes takes 0.14 ms
# on RP2040; nothing is allocated per block there.

import sys

# The architecture of native code, py/persistentcode.h: 4 is ARMv6-M, to 8 ARMv7E-M.
if 4 <= getattr(sys.implementation, "_mpy", 0) >> 10 & 15 <= 8:
    from chargekeep.credential.sha512_thumb import blocks
else:
    from chargekeep.credential.sha512_plain import blocks

# Section 5.3.5, each word with its low byte first.
_INITIAL = (
    b"\x08\xc9\xbc\xf3\x67\xe6\x09\x6a\x3b\xa7\xca\x84\x85\xae\x67\xbb"
    b"\x2b\xf8\x94\xfe\x72\xf3\x6e\x3c\xf1\x36\x1d\x5f\x3a\xf5\x4f\xa5"
    b"\xd1\x82\xe6\xad\x7f\x52\x0e\x51\x1f\x6c\x3e\x2b\x8c\x68\x05\x9b"
    b"\x6b\xbd\x41\xfb\xab\xd9\x83\x1f\x79\x21\x7e\x13\x19\xcd\xe0\x5b"
)


class Sha512:
    """`update(data)` any number of times, then `digest()` once: 64 bytes."""

    def __init__(self, data=b""):
        self._state = bytearray(_INITIAL)
        self._buffer = bytearray(128)
        self._length = 0
        self.update(data)

    def update(self, data):
        data = memoryview(data)
        used = self._length & 127
        self._length += len(data)
        if used:
            rest = 128 - used
            if len(data) < rest:
                self._buffer[used : used + len(data)] = data
                return
            self._buffer[used:] = data[:rest]
            blocks(self._state, self._buffer, 1)
            data = data[rest:]
        count = len(data) >> 7
        if count:
            blocks(self._state, data, count)
            data = data[count << 7 :]
        self._buffer[: len(data)] = data

    def digest(self):
        length = 8 * self._length
        self.update(b"\x80" + bytes((111 - self._length) & 127) + length.to_bytes(16, "big"))
        state = self._state
        return b"".join([bytes(reversed(state[i : i + 8])) for i in range(0, 64, 8)])


def sha512(data):
    """The 64-byte SHA-512 of `data`."""
    return Sha512(data).digest()
