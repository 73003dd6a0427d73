# The PN532 reader against a chip and tags played here from the manuals: UM0701-02 for the frames,
# the NTAG21x data sheet for the memory.
import asyncio

from chargekeep import errors
from chargekeep.health import Health
from chargekeep.reader_pn532 import Pn532Reader

TOKEN = "CK1:" + "0oRNow" * 35
UID = bytes.fromhex("04a1b2c3d4e5f6")


def record(kind, payload, flags=0xC1):
    if len(payload) < 256:
        return bytes((flags | 0x10, 1, len(payload))) + kind + payload
    return bytes((flags, 1)) + len(payload).to_bytes(4, "big") + kind + payload


def tlv(message):
    size = (
        bytes((len(message),)) if len(message) < 255 else b"\xff" + len(message).to_bytes(2, "big")
    )
    return b"\x03" + size + message + b"\xfe"


class Tag:
    def __init__(self, memory=b"", uid=UID, sel_res=0, size=504):
        self.memory = memory + bytes(size - len(memory))
        self.uid = uid
        self.sel_res = sel_res

    def read(self, page):
        at = (page - 4) * 4
        return self.memory[at : at + 16] if 0 <= at and at + 16 <= len(self.memory) else None


class Chip:
    """Answers frames; `tag` is what lies on it. `broken` makes it answer something else."""

    def __init__(self, tag=None):
        self.tag = tag
        self.out = b""
        self.awake = self.configured = False
        self.retries = None
        self.broken = None

    def any(self):
        return len(self.out)

    def read(self, n):
        got, self.out = self.out[: min(n, 7)], self.out[min(n, 7) :]
        return got

    def write(self, data):
        if data[:2] == b"\x55\x55":
            self.awake = True
            return
        assert self.awake and data[:3] == b"\0\0\xff" and data[-1] == 0
        assert (data[3] + data[4]) & 0xFF == 0 and data[3] == len(data) - 7
        body = data[5:-2]
        assert (sum(body) + data[-2]) & 0xFF == 0 and body[0] == 0xD4
        if self.broken is not None:
            self.out += self.broken
            return
        self.out += b"\0\0\xff\0\xff\0"
        answer = self.answer(body[1], body[2:])
        frame = bytes((0xD5, body[1] + 1)) + answer
        self.out += b"\0\0\xff" + bytes((len(frame), -len(frame) & 0xFF)) + frame
        self.out += bytes((-sum(frame) & 0xFF, 0))

    def answer(self, command, data):
        if command == 0x14:
            self.configured = True
            return b""
        assert self.configured
        if command == 0x32:
            assert data[0] == 5 and len(data) == 4
            return b""
        if command == 0x4A:
            tag = self.tag
            if not tag:
                return b"\0"
            return bytes((1, 1, 0, 0x44, tag.sel_res, len(tag.uid))) + tag.uid
        assert command == 0x40 and data[:2] == b"\x01\x30"
        got = self.tag.read(data[2]) if self.tag else None
        return b"\0" + got if got else b"\x01"


def presented(*tags, looks=1):
    """What is told while each of `tags` lies there for `looks` looks, and the errors."""
    health = Health()
    chip = Chip()
    reader = Pn532Reader(chip, health)
    told = []

    async def main():
        for tag in tags:
            chip.tag = tag
            for _ in range(looks):
                got = await reader._look()
                if got:
                    told.append(got)

    asyncio.run(main())
    return told, health.errors


ACK = "0000ff00ff00"
# What drivers in use send (libnfc's pn532_uart, Adafruit's PN532 library) and what real chips
# answered, as users of theirs captured it on the line
WAKE = "55550000000000000000000000000000"
SAM = ("0000ff03fdd414011700", "0000ff02fed5151600")
RETRIES = ("0000ff06fad43205ff0101f400", "0000ff02fed533f800")
LIST = "0000ff04fcd44a0100e100"
NOTHING = "0000ff03fdd54b00e000"
ULTRALIGHT = "0000ff0ff1d54b010100440007048222aadc3980ac00"
CLASSIC = "0000ff0cf4d54b0101000408045cbbe5d5fd00"
CLASSIC_4K = "0000ff0cf4d54b0101000218048a4cb5122300"
READ_4 = ("0000ff05fbd440013004b700", "0000ff13edd54100" + "ff" * 16 + "fa00")


class Recorded:
    """A line on which `story` happens: pairs of what must be sent and what comes back."""

    def __init__(self, story):
        self.story = story
        self.out = b""

    def any(self):
        return len(self.out)

    def read(self, n):
        got, self.out = self.out[:n], self.out[n:]
        return got

    def write(self, data):
        sent, answer = self.story.pop(0)
        assert data == bytes.fromhex(sent), (data.hex(), sent)
        self.out += bytes.fromhex(answer and ACK + answer)


def test_frames_as_real_chips_exchange_them():
    begin = [(WAKE, ""), SAM, RETRIES]
    for story, expected in (
        ([(LIST, NOTHING)], None),
        ([(LIST, CLASSIC)], "UID:5CBBE5D5"),
        ([(LIST, CLASSIC_4K)], "UID:8A4CB512"),
        ([(LIST, ULTRALIGHT), READ_4], "UID:048222AADC3980"),  # memory that says nothing
    ):
        line = Recorded(begin + story)
        health = Health()
        assert asyncio.run(Pn532Reader(line, health)._look()) == expected
        assert not line.story and not health.errors, (expected, line.story, health.errors)


def test_tokens_in_text_and_uri_records():
    text = record(b"T", b"\x02en" + TOKEN.encode())
    uri = record(b"U", b"\0" + TOKEN.encode())
    long = "CK1:" + "A" * 400
    for memory, expected in (
        (tlv(text), TOKEN),
        (tlv(uri), TOKEN),
        (b"\0\0" + tlv(uri), TOKEN),
        (b"\x01\x03\xa0\x0c\x34" + tlv(text), TOKEN),  # a lock control block first
        (tlv(record(b"U", b"\0" + long.encode())), long),
        (tlv(record(b"T", b"\x05de-DE" + TOKEN.encode(), 0x81) + text), TOKEN),  # two records
    ):
        told, bad = presented(Tag(memory))
        assert told == [expected] and not bad, (memory, told, bad)


def test_all_else_is_a_uid():
    uid = ["UID:04A1B2C3D4E5F6"]
    for memory in (
        b"",
        b"\xfe",
        b"\x03\x00\xfe",
        b"\x03\xff\xff\xff",
        b"\x01" * 40,
        tlv(record(b"U", b"\x04example.com")),
        tlv(record(b"U", b"")),
        tlv(record(b"T", b"\x3fen")),
        tlv(record(b"T", b"\x02en\xff\xff")),
        tlv(record(b"X", TOKEN.encode())),
        tlv(record(b"U", b"\0" + TOKEN.encode(), 0xC2)),
        tlv(record(b"U", b"\0hello")),
        tlv(b"\xd1\x01\xff" + b"U\0CK1:"),
        tlv(b"\xd1"),
    ):
        told = presented(Tag(memory))[0]
        assert told == uid, (memory, told)
    assert presented(Tag(uid=b"\1\2\3\4", sel_res=8))[0] == ["UID:01020304"]  # MIFARE Classic


def test_a_tag_that_ends_early():
    told, bad = presented(Tag(b"\x03\xff\x02\x00", size=64))
    assert told == ["UID:04A1B2C3D4E5F6"] and bad == {errors.TOKEN_FORM: 1}


def test_a_tap_is_told_once():
    tag, other = Tag(), Tag(uid=b"\1\2\3\4")
    assert presented(tag, looks=20)[0] == ["UID:04A1B2C3D4E5F6"]
    assert presented(tag, None, tag, looks=1)[0] == ["UID:04A1B2C3D4E5F6"]  # a moment's loss
    assert presented(tag, None, tag, looks=3)[0] == ["UID:04A1B2C3D4E5F6"] * 2
    assert presented(tag, other, tag, looks=2)[0] == [
        "UID:04A1B2C3D4E5F6",
        "UID:01020304",
        "UID:04A1B2C3D4E5F6",
    ]


def test_a_chip_that_is_not_there_or_mad():
    ack = b"\0\0\xff\0\xff\0"
    for broken in (
        b"",
        b"\xff" * 50,
        ack,
        ack + b"\0\0\xff\x02\xfe\xd5\x15\x17\0",  # checksum
        ack + b"\0\0\xff\x02\xfd\xd5\x15\x16\0",  # length checksum
        ack + b"\0\0\xff\xff\x01" + bytes(255),
        ack + b"\0\0\xff\x01\xff\x7f\x81\0",  # error frame
        ack + b"\0" * 2000,
    ):
        health = Health()
        chip = Chip(Tag())
        chip.broken = broken
        reader = Pn532Reader(chip, health)

        async def look(reader=reader):
            return await reader._look()

        assert asyncio.run(look()) is None and health.errors == {errors.BOARD: 1}, broken
        chip.broken = None
        assert asyncio.run(look()) == "UID:04A1B2C3D4E5F6"


def test_reads_until_there_is_something():
    chip = Chip()
    reader = Pn532Reader(chip, Health())

    async def main():
        task = asyncio.create_task(reader.read())
        await asyncio.sleep(0.05)
        chip.tag = Tag(tlv(record(b"U", b"\0" + TOKEN.encode())))
        assert await task == TOKEN

    asyncio.run(main())
