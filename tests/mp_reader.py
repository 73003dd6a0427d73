# also: cpython
import asyncio

from chargekeep import errors
from chargekeep.health import Health
from chargekeep.reader import LineReader


class Uart:
    """What was sent, given out in pieces."""

    def __init__(self, data=b""):
        self.data = memoryview(data)

    def any(self):
        return len(self.data)

    def read(self, n):
        got, self.data = self.data[:n], self.data[n:]
        return bytes(got)


def lines(data, count):
    health = Health()
    reader = LineReader(Uart(data), health)

    async def read():
        got = []
        for _ in range(count):
            got.append(await reader.read())
        return got

    return asyncio.run(read()), health.errors


def test_lines_end_in_any_way():
    got, bad = lines(b"CK1:abc\nUID:04\r\n\r\n  DE-1 \r", 3)
    assert got == ["CK1:abc", "UID:04", "DE-1"] and not bad


def test_noise_is_counted_and_dropped():
    got, bad = lines(b"\x00\xff\x80garbage\nCK1:one\nx\x07y\r\nCK1:two\n", 2)
    assert got == ["CK1:one", "CK1:two"]
    assert bad == {errors.TOKEN_FORM: 2}


def test_a_line_without_end_keeps_no_memory():
    got, bad = lines(b"A" * 600 + b"\n" + b"B" * 601 + b"\n" + b"C" * 5000 + b"\nlast\n", 2)
    assert got == ["A" * 600, "last"]
    assert bad == {errors.TOKEN_FORM: 2}


def test_waits_and_goes_on_with_half_a_line():
    uart = Uart(b"CK1:ab")
    reader = LineReader(uart, Health())

    async def main():
        task = asyncio.create_task(reader.read())
        await asyncio.sleep(0.05)
        assert not task.done()
        uart.data = b"cd\nnext\n"
        assert await task == "CK1:abcd"
        assert await reader.read() == "next"

    asyncio.run(main())
