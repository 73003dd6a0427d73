# Cards and phones over an NXP PN532 on a UART (HSU mode): a token in an NDEF record of an NTAG, or
# else the bare UID of the card. Same contract as reader.py: `await reader.read()`. A tap is told
# once. Section numbers are of the PN532 user manual (UM0701-02) unless another source is named.

import asyncio
import time

from micropython import const

from chargekeep import errors
from chargekeep.credential import token

BAUDRATE = const(115200)  # 6.2.1: the chip's default

_TO_CHIP = const(0xD4)  # 6.2.1.1: frame identifiers
_FROM_CHIP = const(0xD5)
_SAM_CONFIGURATION = const(0x14)  # 7.1: command codes
_RF_CONFIGURATION = const(0x32)
_LIST_PASSIVE_TARGET = const(0x4A)
_DATA_EXCHANGE = const(0x40)

_WAKE = b"\x55\x55" + bytes(14)  # 6.2.3: leaves the HSU's low power mode
_ACK = b"\x00\x00\xff\x00\xff\x00"  # 6.2.1.3
_ACK_MS = const(50)  # 6.2.2: 15 ms, and the time on the line
_ANSWER_MS = const(300)
_POLL_MS = const(5)
_PAUSE_MS = const(150)  # between two looks for a card
_GONE = const(3)  # looks without a card until the next tap counts
_MAX_FRAME = const(64)

_NTAG = const(0x00)  # SEL_RES of NTAG21x and MIFARE Ultralight (AN10833 table 6)
_READ = const(0x30)  # NTAG21x data sheet, 10.2: four pages of 4 bytes from a page on
_FIRST_PAGE = const(4)  # of user memory; the capability container is page 3
_MAX_NDEF = const(888)  # bytes of user memory of the largest, NTAG216

_TLV_NDEF = const(0x03)  # NFC Forum Type 2 Tag, 2.3
_TLV_END = const(0xFE)


class Pn532Reader:
    """Cards at the chip on `uart` (`any()`, `read(n)`, `write(buf)`). Faults of the chip are
    counted as BOARD, cards that end in the middle as TOKEN_FORM."""

    def __init__(self, uart, health):
        self._uart = uart
        self._health = health
        self._buffer = b""
        self._ready = False
        self._last = None  # UID of the card that was told
        self._looks = 0  # without it

    async def read(self):
        """What the next tap presents: `CK1:` or `UID:` text."""
        while True:
            presented = await self._look()
            if presented:
                return presented
            await asyncio.sleep_ms(_PAUSE_MS)

    async def _look(self):
        if not self._ready:
            self._uart.write(_WAKE)
            # 7.2.10: normal mode. 7.3.1: item 5, one attempt to find a card, so that a look ends
            # at once where there is none
            self._ready = (
                await self._ask(_SAM_CONFIGURATION, b"\x01") is not None
                and await self._ask(_RF_CONFIGURATION, b"\x05\xff\x01\x01") is not None
            )
            if not self._ready:
                self._health.count(errors.BOARD, "pn532")
                return None
        # 7.3.5: one target of 106 kbit/s type A
        answer = await self._ask(_LIST_PASSIVE_TARGET, b"\x01\x00")
        if answer is None:
            self._ready = False
            return None
        uid = _uid(answer)
        if uid is None:
            self._looks += 1
            if self._looks >= _GONE:
                self._last = None
            return None
        self._looks = 0
        if uid == self._last:
            return None
        self._last = uid
        text = await self._token() if answer[4] == _NTAG else None
        return text or "UID:" + "".join(["%02X" % byte for byte in uid])

    async def _token(self):
        """Token of the card's first NDEF record, or None."""
        data = b""
        while True:
            found = _ndef(data)
            if found is None or found[0] + found[1] > _MAX_NDEF:
                return None
            start, length = found
            if 0 <= length and start + length <= len(data):
                return _text(data[start : start + length])
            page = _FIRST_PAGE + len(data) // 4
            answer = await self._ask(_DATA_EXCHANGE, bytes((1, _READ, page)))
            if not answer or answer[0] & 0x3F or len(answer) != 17:  # 7.1: status byte
                self._health.count(errors.TOKEN_FORM, "card")
                return None
            data += answer[1:]

    async def _ask(self, command, data):
        """Answer's data to a command, or None."""
        frame = bytes((_TO_CHIP, command)) + data
        self._buffer = b""
        while self._uart.any():
            self._uart.read(self._uart.any())
        head = bytes((0, 0, 0xFF, len(frame), -len(frame) & 0xFF))
        self._uart.write(head + frame + bytes((-sum(frame) & 0xFF, 0)))
        if not await self._receive(_ACK_MS, self._take_ack):
            return None
        answer = await self._receive(_ANSWER_MS, self._take_frame)
        if not answer or answer[0] != _FROM_CHIP or answer[1] != command + 1:
            return None
        return answer[2:]

    async def _receive(self, timeout_ms, take):
        # What came with what was taken before is looked at first
        started = time.ticks_ms()
        while True:
            taken = take()
            if taken:
                return taken
            if len(self._buffer) > 4 * _MAX_FRAME:
                return None
            count = self._uart.any()
            if count:
                self._buffer += self._uart.read(count) or b""
            elif time.ticks_diff(time.ticks_ms(), started) < timeout_ms:
                await asyncio.sleep_ms(_POLL_MS)
            else:
                return None

    def _take_ack(self):
        at = self._buffer.find(_ACK)
        if at < 0:
            return None
        self._buffer = self._buffer[at + len(_ACK) :]
        return True

    def _take_frame(self):
        # 6.2.1.1: 00 FF, LEN, LCS, data, DCS
        buffer = self._buffer
        at = buffer.find(b"\x00\xff")
        if at < 0 or len(buffer) < at + 4:
            return None
        length = buffer[at + 2]
        if length < 2 or length > _MAX_FRAME or (length + buffer[at + 3]) & 0xFF:
            return b"\0\0"  # an answer that is none
        data = buffer[at + 4 : at + 4 + length]
        if len(buffer) < at + 5 + length:
            return None
        return data if not (sum(data) + buffer[at + 4 + length]) & 0xFF else b"\0\0"


def _uid(answer):
    # 7.3.5: NbTg, Tg, SENS_RES (2), SEL_RES, NFCIDLength, NFCID
    if len(answer) < 6 or answer[0] != 1 or not 4 <= answer[5] <= 10:
        return None
    uid = answer[6 : 6 + answer[5]]
    return uid if len(uid) == answer[5] else None


def _ndef(data):
    """`(start, length)` of the NDEF message in the TLV blocks of user memory, or None.

    The length is -1 where `data` is too short to tell.
    """
    at = 0
    while at + 4 <= len(data):
        kind, length, start = data[at], data[at + 1], at + 2
        if kind == _TLV_END:
            return None
        if kind == 0:  # NULL: a single byte
            at += 1
            continue
        if length == 0xFF:
            length, start = data[at + 2] << 8 | data[at + 3], at + 4
        if kind == _TLV_NDEF:
            return start, length
        at = start + length
    return at, -1


def _text(message):
    """Token of the first record, a Text or URI (NFC Forum NDEF 2.3, RTD Text 3.2, RTD URI 3.2)."""
    # Begins the message, whole, without id, of a well-known type of one letter
    if len(message) < 5 or message[0] & 0xAF != 0x81 or message[1] != 1:
        return None
    short = message[0] & 0x10
    start = 4 if short else 7
    length = message[2] if short else int.from_bytes(message[2:6], "big")
    kind = message[start - 1]
    payload = message[start : start + length]
    if len(payload) != length or not length:
        return None
    if kind == 0x54:  # T: status byte with the length of the language code
        payload = payload[1 + (payload[0] & 0x3F) :]
    elif kind == 0x55 and not payload[0]:  # U: identifier code 0, nothing is prepended
        payload = payload[1:]
    else:
        return None
    try:
        text = str(payload, "utf-8")
    except UnicodeError:
        return None
    return text if text.startswith(token.PREFIX) else None
