# TLS a record at a time, between a Stream and mbedTLS as the server: who else has a turn, and what
# comes of a network that takes and gives as little as it likes, stops, or breaks.
# heap: 320k
import asyncio
import io
import time
from binascii import a2b_base64

import tls

from chargekeep.sync import secure

# Its own authority, for the host `broker`, until 2049
CERTIFICATE = a2b_base64(
    "MIIBNzCB3aADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBmJyb2tlcjAeFw0wMDAxMDEwMDAwMDBaFw00"
    "OTEyMzEwMDAwMDBaMBExDzANBgNVBAMMBmJyb2tlcjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABH+ObY3nij9I"
    "oQEfHnGYggmgYeXLrO0wSTrHgHvp+FDj+//5sjUGMHX14pSRwJo1gZKHckbwjTLfn8N1a8vaojSjJjAkMBEGA1Ud"
    "EQQKMAiCBmJyb2tlcjAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQCFcZ3yp2LRgEfMPhWkAAXA"
    "EvYQsmWvW2uDAqjziFzKNQIhAPigTEMWKW5np/0zLeXgwsyM4DK8AgjdVN62i5/URasy"
)
KEY = a2b_base64(
    "MHcCAQEEIKx078ei8tl62PcNkopn80I8jxEZUoVN2BrKZ4QBK3X3oAoGCCqGSM49AwEHoUQDQgAEf45tjeeKP0ih"
    "AR8ecZiCCaBh5cus7TBJOseAe+n4UOP7//myNQYwdfXilJHAmjWBkodyRvCNMt+fw3Vry9qiNA=="
)
PLENTY = 1 << 20
EINVAL, ECONNRESET = 22, 104
POLL = 3
READABLE, WRITABLE = 1, 4
RECORDS = 9  # three handshake messages out, six records in


class End(io.IOBase):
    """A socket that never blocks, on one end of a line. `most`: bytes a call; `room`: bytes that
    the line holds; `left`: reads until it stops, or with `fault` fails."""

    def __init__(self, coming, going, most=PLENTY, room=PLENTY):
        self.coming, self.going = coming, going
        self.most, self.room = most, room
        self.left = PLENTY
        self.fault = None
        self.closed = False
        self.turn = 0
        self.began = []  # turns in which a record was begun
        self.on_header = lambda: None

    def readinto(self, buf):
        if not self.left:
            if self.fault is not None:
                raise OSError(self.fault)
            return None
        n = min(len(buf), len(self.coming), self.most)
        if not n:
            return None
        self.left -= 1
        if len(buf) == 5:
            self.began.append(self.turn)
            self.on_header()
        buf[:n] = self.coming[:n]
        self.coming[:] = self.coming[n:]
        return n

    def write(self, buf):
        n = min(len(buf), self.room - len(self.going), self.most)
        if n <= 0:
            return None
        if buf[0] == 22:
            self.began.append(self.turn)
        self.going.extend(buf[:n])
        return n

    def ioctl(self, request, argument):
        if request != POLL:
            return -EINVAL
        ready = READABLE if (self.coming and self.left) or self.fault else 0
        return (ready | (WRITABLE if len(self.going) < self.room else 0)) & argument

    def close(self):
        self.closed = True

    async def count_turns(self):
        while True:
            self.turn += 1
            await asyncio.sleep_ms(0)


class Line:
    """A `stream` to a server that sends back what it gets; `end` is the stream's socket."""

    def __init__(self, host="broker", busy=lambda: False, **how):
        up, down = bytearray(), bytearray()
        self.end = End(down, up, **how)
        plain = asyncio.StreamWriter(self.end)
        self.stream = secure.wrapper({8: CERTIFICATE}, host, busy)(plain)
        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        far = End(up, down)
        self.server = context.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
        self.heard = bytearray()
        self.tasks = [asyncio.create_task(job()) for job in (self.serve, self.end.count_turns)]

    async def serve(self):
        buf = bytearray(5000)
        while True:
            try:
                n = self.server.readinto(buf)
                if n:
                    self.heard.extend(buf[:n])
                    self.server.write(buf[:n])
            except OSError:
                return
            await asyncio.sleep_ms(1)

    async def send(self, data=b"hello"):
        self.stream.write(data)
        await asyncio.wait_for_ms(self.stream.drain(), 5000)

    async def receive(self, count, size=5000):
        buf, found = bytearray(size), b""
        while len(found) < count:
            n = await asyncio.wait_for_ms(self.stream.readinto(buf), 5000)
            found += buf[: n or 0]
        return found


async def error_of(line, deadline_ms=5000):
    """What a line's first write ends with."""
    line.stream.write(b"hello")
    try:
        await asyncio.wait_for_ms(line.stream.drain(), deadline_ms)
    except (OSError, ValueError, asyncio.TimeoutError) as e:
        return e
    raise AssertionError("sent")


async def test_others_have_a_turn_between_any_two_records():
    line = Line()
    await line.send()
    began = line.end.began
    assert len(began) == RECORDS and len(set(began)) == RECORDS, began
    assert await line.receive(5) == b"hello"


async def test_what_came_by_another_line_is_next():
    # A card, say, that is held to the reader while a record is dealt with.
    line, card = Line(), End(bytearray(), bytearray())
    reader, taken = asyncio.StreamReader(card), []

    def hold_card():
        assert not card.coming
        card.coming.extend(b"card")

    async def serve_drivers():
        while True:
            taken.append(await reader.readinto(bytearray(10)))

    line.end.on_header = hold_card
    task = asyncio.create_task(serve_drivers())
    await line.send()
    await asyncio.sleep_ms(10)
    assert taken == [4] * 6, taken
    task.cancel()


async def test_two_stalls_do_not_add_up():
    # Who is late because of another task runs before the next step, not after it.
    line, tasks, late = Line(), [], []

    async def work():
        await asyncio.sleep_ms(5)
        time.sleep_ms(80)

    async def tick():
        late.append(True)
        await asyncio.sleep_ms(50)
        late.pop()

    def between():
        assert not late
        tasks.extend([asyncio.create_task(job()) for job in (work, tick)])

    line.end.on_header = between
    await line.send()
    assert len(tasks) == 12


async def test_a_handshake_waits_while_a_driver_is_served():
    busy = True
    line = Line(busy=lambda: busy)
    task = asyncio.create_task(line.send())
    await asyncio.sleep_ms(100)
    assert len(line.end.began) == 0
    busy = False
    while len(line.end.began) < 4:
        await asyncio.sleep_ms(0)
    busy = True
    await asyncio.sleep_ms(100)
    assert len(line.end.began) <= 5
    busy = False
    await task
    busy = True  # what follows does not wait
    await line.send(b"again")
    assert await line.receive(10) == b"helloagain"


async def test_a_reader_leaves_the_handshake_to_the_writer():
    line = Line()
    reading = asyncio.create_task(line.receive(5))
    await asyncio.sleep_ms(50)
    assert not line.end.began
    await line.send()
    assert await reading == b"hello"


async def test_a_byte_at_a_time():
    line = Line(most=1)
    text = bytes(range(256)) * 2
    await line.send(text)
    assert await line.receive(512, 100) == text


async def test_a_line_that_holds_little():
    line = Line(room=100)
    text = bytes(range(256)) * 40  # more than two records of mbedTLS
    await line.send(memoryview(text))
    assert await line.receive(len(text)) == text
    assert bytes(line.heard) == text


async def test_what_tls_holds_already_is_not_waited_for():
    line = Line()
    text = bytes(range(256))
    await line.send(text)
    assert await line.receive(10, 10) == text[:10]
    assert not line.end.coming
    assert await line.receive(246, 10) == text[10:]


async def test_a_broker_that_never_pauses_holds_up_nobody():
    line = Line()
    await line.send(bytes(4000))
    await asyncio.sleep_ms(50)
    for _ in range(100):
        turn = line.end.turn
        await line.stream.readinto(bytearray(10))
        assert line.end.turn > turn


async def test_a_line_that_breaks_at_any_read():
    for fault in (ECONNRESET, None):
        for reads in range(12):
            line = Line()
            line.end.left, line.end.fault = reads, fault
            found = await error_of(line, 5000 if fault else 30)
            if fault:
                assert isinstance(found, OSError) and found.errno == fault, found
                line.end.left = PLENTY  # mbedTLS knows, and goes on with nothing
                assert isinstance(await error_of(line), OSError)
            else:
                assert isinstance(found, asyncio.TimeoutError), found
            await line.stream.wait_closed()
            assert line.end.closed
            for task in line.tasks:
                task.cancel()


async def test_a_broker_with_another_name_is_refused_in_words():
    line = Line(host="elsewhere")
    found = await error_of(line)
    assert isinstance(found, ValueError) and "does not match" in str(found), found
    assert await error_of(line) is not None  # and no second try succeeds
