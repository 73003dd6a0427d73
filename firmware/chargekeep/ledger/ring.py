# The ledger: a ring of records on raw NOR flash. What `append` returned from survives any power
# cut; what a cut interrupts is there whole or not at all, and stays so. Only what the host has
# committed is ever erased. One program a page of four slots, one erase a sector of sixty.

import struct
from binascii import crc32
from hashlib import sha256

from micropython import const

from chargekeep import cbor, errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.reader import ACKNOWLEDGED, MAX_SECTORS, SLOTS
from chargekeep.ledger.record import BODY, PAYLOAD, SLOT
from chargekeep.ledger.seal import close_seal, head_message, link_key
from chargekeep.ledger.state import KEY, SLOT_AT, State

_BLOCK = const(4096)
_PAGE = const(256)
_PAGE_SLOTS = const(4)
_HEADER = const(256)  # bytes before the slots
_LIMIT = const(0xFFFFFF00)  # no seq gets here; a new log is due long before
_RESERVE = const(60)  # slots that only the end of a transaction may use
_THIN_BELOW = const(120)  # free slots; thinning needs one sector to work in
_THIN_EARLY = const(180)
_ALIGN = const(12)  # slots of a group that begins a page
_CLOSING = (record.TX_ENDED, record.HEAD)
_BOOTS = const(0)  # counter
_FAILURES = const(3)  # failed programs that end the use of a sector
_READS = const(16)  # of a page that was erased before this power cycle, ahead of its first use

_ONES = b"\xff" * _PAGE


class _ProgramFailed(Exception):
    """Flash does not read back as programmed."""


class Ledger(State):
    """A ring of records on `device`; `mount` before anything else.

    device: MicroPython's extended block protocol with blocks of 4,096 bytes; an attribute
        `program_size` (16 if absent) is what programs are aligned to.
    key: seal key of epoch 0, 32 bytes; None where `store` has its successor (seal.py).
    timebase: has `stamp()` (timebase.py).
    """

    def __init__(self, device, key, timebase, store=None):
        super().__init__(device, key, store)
        self._timebase = timebase
        self._program_size = getattr(device, "program_size", 16)
        self._record = bytearray()  # the one being appended, so that appending allocates less
        view = memoryview(self._work)
        self._linked = view[: SLOT_AT + BODY]  # what a link hashes
        self._summed = view[SLOT_AT : SLOT_AT + record.CRC_AT]
        self._whole = view[SLOT_AT:]
        self._boot = None  # body of the boot record that is due
        self._dirty = 0  # slots of `_page` that are not in flash yet
        self._ready = -1  # block that was erased in this power cycle and is not used yet
        self._ready_erases = 0
        self._failures = 0  # of programs in the head sector
        self._thin_at = 0  # sector seq that thinning looked at last, or minus the head's when done

    def mount(self, read_only=False):
        """Find head, counters and chain. Writes nothing.

        Raises LEDGER_FOREIGN where there is no ledger or more than one, LEDGER_VERSION for a
        newer major version (a newer minor one is mounted read-only), LEDGER_TAMPERED where the
        newest sector is not sealed by our key (`read_only` mounts it nevertheless).
        """
        self._mount(read_only)
        self._page[:] = _ONES
        self._count_spare()

    @staticmethod
    def format(device, log_id, key, store=None, force=False):
        """Make `device` an empty ledger. Refuses what is neither blank nor a ledger of `log_id`.

        log_id: 16 bytes, never used before. key: seal key of epoch 0, 32 bytes, that the host
        keeps as well. force: erase whatever is there. Raises LEDGER_FOREIGN, LEDGER_ERASE.
        """
        from chargekeep.ledger.format import make

        make(Ledger(device, key, None), log_id, key, store, force)

    # Appending

    def append(self, record_type, body):
        """Store one record, `body` a list after the time stamp; durable on return. Its seq.

        Raises LEDGER_FULL, LEDGER_RANGE (more than 576 bytes), LEDGER_ERASE, LEDGER_EXHAUSTED.
        """
        if not 0 < record_type <= record.TYPE or record_type == record.COUNTER:
            raise ChargekeepError(errors.LEDGER_RANGE, "type %d" % record_type)
        return self._store([(record_type, self._encode(body))])

    def _encode(self, body):
        if len(self._record) > 2 * PAYLOAD:
            self._record = bytearray()  # such are rare
        self._record[:] = b""
        cbor.dump_joined(self._record, self._timebase.stamp(), body)
        return self._record

    def append_many(self, items):
        """Store several `(record type, body)` with as few page programs as can be.

        Returns the seq of the last. A power cut leaves the first none, some or all of them.
        """
        stamp = self._timebase.stamp()
        return self._store([(kind, cbor.dumps(stamp + body)) for kind, body in items])

    def advance(self, index, value):
        """Raise counter `index` to `value`, durable on return. Raises COUNTER_DECREASE."""
        if not 0 <= index < header.COUNTERS or index == ACKNOWLEDGED or not 0 <= value < 1 << 32:
            raise ChargekeepError(errors.LEDGER_RANGE, "counter %d" % index)
        now = self._header.counters[index]
        if value < now:
            raise ChargekeepError(errors.COUNTER_DECREASE, "%d: %d to %d" % (index, now, value))
        if value > now:
            self._store([(record.COUNTER, self._encode([index, value]))])
            self._header.counters[index] = value

    def start_boot(self, body):
        """Count a boot; its number, which no boot before it has left in a record.

        That becomes durable, with a boot record of `body`, by `record_boot` or with the first
        record that follows: a boot that does nothing costs nothing. Raises LEDGER_VERSION.
        """
        self._check_writable()
        self._boot = body
        return self._header.counters[_BOOTS] + 1

    def record_boot(self, reserve=_RESERVE):
        """Record the boot that was counted, where that is still due. Raises as `append`."""
        body, self._boot = self._boot, None
        if not body:
            return
        stamp = self._timebase.stamp()
        counters = self._header.counters
        counters[_BOOTS] += 1  # before: a sector may begin between the two records
        count = cbor.dumps(stamp + [_BOOTS, counters[_BOOTS]])
        try:
            boot = cbor.dumps(stamp + body)
            self._store([(record.COUNTER, count), (record.BOOT, boot)], reserve)
        except (ChargekeepError, OSError):
            counters[_BOOTS] -= 1
            self._boot = body
            raise

    def migrate(self):
        """Go on in the format version of this firmware, with a new sector.

        Older sectors stay as they are; older firmware mounts the ring read-only from then on, so
        call this when this firmware is here to stay. Until then sectors are of the version found.
        """
        if self.writable and self._spare and self._version < header.VERSION:
            self._version = header.VERSION
            self._index = SLOTS

    async def append_head(self, sign):
        """Have the station sign the head of the chain: `await sign(message) -> 64 bytes`. The seq.

        Whoever has this record has the station's word for everything before it.
        """
        seq, link = self.head
        signature = await sign(head_message(self.log_id, seq, link))
        return self.append(record.HEAD, [seq, link, signature])

    def _check_writable(self):
        if not self.writable:
            raise ChargekeepError(errors.LEDGER_VERSION, "read-only")

    def _store(self, encoded, reserve=_RESERVE):
        self._check_writable()
        need = 0
        for kind, payload in encoded:
            slots = (len(payload) + PAYLOAD - 1) // PAYLOAD
            if not 0 < slots <= record.MAX_SLOTS or not 0 < kind & record.TYPE:
                raise ChargekeepError(errors.LEDGER_RANGE, "%d bytes" % len(payload))
            need += slots
            if kind in _CLOSING:
                reserve = 0
        due = need + len(self._pin) + (2 if self._boot else 0)
        if self._next + due > _LIMIT:
            raise ChargekeepError(errors.LEDGER_EXHAUSTED, "start a new log")
        if reserve and self.free_slots - due < _THIN_BELOW:
            self._thin(_THIN_BELOW + due)
        self.record_boot(reserve)
        need += len(self._pin)
        if self.free_slots - need < reserve:
            raise ChargekeepError(errors.LEDGER_FULL, "%d slots" % self.free_slots)
        gap = -self._index % _PAGE_SLOTS
        if need >= _ALIGN and not self._pin and self._index + gap + need <= SLOTS:
            self._index += gap  # whole pages for a large group
        done = mark = 0
        next_ = self._next
        link = bytes(self._before)
        while True:
            try:
                self._repeat_pin()
                while done < len(encoded):
                    kind, payload = encoded[done]
                    if self._make_room((len(payload) + PAYLOAD - 1) // PAYLOAD):
                        self._settle()
                        mark, next_ = done, self._next
                        link = bytes(self._before)
                    start = self._next
                    self._put(kind, payload)
                    done += 1
                self._flush()
                if self._doubt:
                    self._settle()
                self._settled = self._next - 1
                return start
            except _ProgramFailed:
                # What did reach the flash is superseded: the same seqs come again further on.
                done = mark
                self._rewind(next_, link)
            except (ChargekeepError, OSError):
                self._rewind(next_, link)
                raise

    def _settle(self):
        # What the last power cut left is repeated: it can neither fade nor come back.
        self._pin = []
        self._doubt = False
        self._held = {}

    def _thin(self, enough, limit=MAX_SECTORS):
        from chargekeep.ledger.thin import thin

        done = 0
        while done < limit and self.free_slots < enough and thin(self):
            done += 1
        return done > 0

    def _rewind(self, next_, link):
        self._page[:] = _ONES
        self._index += -self._index % _PAGE_SLOTS  # part of the page may be programmed
        self._dirty = 0
        self._next = next_
        self._before[:] = link

    def _make_room(self, slots):
        # A record lies in one sector. True where that took a new one.
        if self._index + slots <= SLOTS:
            return False
        self._flush()
        self._open()
        return True

    def _put(self, kind, payload):
        work = self._work
        length = len(payload)
        at = 0
        while at < length:
            size = min(PAYLOAD, length - at)
            flags = size
            if not at:
                flags |= record.FIRST
            if at + size == length:
                flags |= record.LAST
            part = payload[at : at + size] if length > size else payload
            seq = self._next & 0xFFFF
            struct.pack_into("<HBB48s", work, SLOT_AT, seq, kind, flags, part)
            self._emit(sha256(self._linked).digest())
            self._next += 1
            at += size

    def _emit(self, link):
        # The slot in the workspace becomes the next of the page.
        work = self._work
        if self._dirty:
            work[SLOT_AT + 2] |= record.JOINED
        else:
            work[SLOT_AT + 2] &= ~record.JOINED
        struct.pack_into("8s", work, SLOT_AT + record.LINK_AT, link)
        struct.pack_into("8s", work, KEY, link)
        crc = crc32(self._summed, self._seed ^ self._index)
        struct.pack_into("<I", work, SLOT_AT + record.CRC_AT, crc)
        slot = self._index % _PAGE_SLOTS
        self._views(self._page, slot, slot + 1)[:] = self._whole
        self._dirty += 1
        self._index += 1
        if slot == _PAGE_SLOTS - 1:
            self._flush()

    def _repeat_pin(self):
        # The last operation before the power cut may have left bits that fade. Its slots come
        # once more, with the same seqs and links, so that what counts now counts for ever.
        if self._pin:
            self._make_room(len(self._pin))
            for slot in self._pin:
                self._work[SLOT_AT:] = slot
                self._work[SLOT_AT + 2] |= record.REPEATED
                self._emit(slot[record.LINK_AT : record.CRC_AT])

    def _flush(self):
        count = self._dirty
        if not count:
            return
        self._dirty = 0
        page = (self._index - 1) // _PAGE_SLOTS
        end = self._index - page * _PAGE_SLOTS
        at = _HEADER + page * _PAGE
        if (not self._proven and not self._prove(at)) or not self._program(
            self._head, at, end - count, end
        ):
            self._failures += 1
            self._index = (page + 1) * _PAGE_SLOTS if self._failures < _FAILURES else SLOTS
            raise _ProgramFailed

    def _prove(self, page_at):
        # Bits that a power cut left half programmed may read as ones now and then.
        self._proven = True
        for _ in range(_READS):
            self.device.readblocks(self._head, self._check, page_at)
            if self._check != _ONES:
                return False
        return True

    def _program(self, block, page_at, start, end):
        """Program slots `start` to `end` of `_page`; False where they do not read back."""
        data = self._views(self._page, start, end)
        if self._program_size == _PAGE:
            # Ones change nothing, and around our slots the page holds ones.
            self.device.writeblocks(block, self._page, page_at)
        else:
            self.device.writeblocks(block, data, page_at + start * SLOT)
        check = self._views(self._check, start, end)
        self.device.readblocks(block, check, page_at + start * SLOT)
        good = check == data
        struct.pack_into("256s", self._page, 0, _ONES)
        return good

    # Sectors

    def _blank(self, block):
        for at in range(0, _BLOCK, _PAGE):
            self.device.readblocks(block, self._check, at)
            if self._check != _ONES:
                return False
        return True

    def _erase(self, block):
        """Erase and check; False marks the sector as worn."""
        self.device.readblocks(block, self._check, 0)
        found = header.Header.unpack(self._check)
        self._seq[block] = 0
        self._ready = -1
        try:
            self.device.ioctl(6, block)
            if self._blank(block):
                self._ready = block
                self._ready_erases = 1 + (found.erases if found else self._header.erases)
                return True
        except OSError:
            pass  # worn as well: the part said so itself
        self._retire(block)
        return False

    def _retire(self, block):
        self._bad[block >> 3] |= 1 << (block & 7)
        self._seq[block] = 0
        self._count_spare()

    def _free(self, block):
        if block == self._head or self._bad[block >> 3] >> (block & 7) & 1:
            return False
        return not self._seq[block] or self._end(block) - 1 <= self._durable

    def _count_spare(self):
        self._spare = sum([self._free(block) for block in range(self.sectors)])
        if self._spare:
            # Its erase may have begun, and what a cut leaves of it may read differently each time.
            self._seq[self._victim()] = 0

    def _victim(self):
        # The next sector that holds nothing the host still needs, in turn: wear is even.
        for step in range(1, self.sectors + 1):
            block = (self._head + step) % self.sectors
            if self._free(block):
                return block
        raise ChargekeepError(errors.LEDGER_FULL, "no sector")

    def _open(self):
        """Begin the next sector. Raises LEDGER_FULL, before anything is changed."""
        here = self._header
        link = bytes(self._before)
        close = close_seal(self._seal.key, self._next - 1, link)
        key = self._seal.following()
        while True:
            block = self._victim()
            if self._ready != block and not self._erase(block):
                continue
            self._ready = -1
            new = header.Header(self.log_id, self.sectors)
            new.version = self._version
            new.seq = new.epoch = here.seq + 1
            new.first = self._next
            new.erases = self._ready_erases
            new.acknowledged = self._acknowledged
            new.tail = self._tail(new.seq)
            new.link = link
            new.counters = here.counters
            new.bad = self._bad
            new.close = close
            new.pack_into(self._page, key)
            if self._program(block, 0, 0, _PAGE_SLOTS):
                break
            self._retire(block)
        self._seal.accept(key)
        self._header = new
        self._head = block
        self._seq[block] = new.seq
        self._first[block] = new.first
        self._durable = new.acknowledged
        self._seed = record.slot_seed(self.log_id, new.seq)
        self._work[:KEY] = link_key(key)
        self._index = self._failures = 0
        self._proven = True
        self._count_spare()

    def _begin(self, link):
        # The first sector of a log, whose chain begins with `link`.
        self._before[:] = link
        self._page[:] = _ONES
        self._open()

    def _tail(self, default):
        # Seq of the oldest sector that holds what the host has not acknowledged.
        tail = default
        for block in range(self.sectors):
            if 0 < self._seq[block] < tail and (block == self._head or not self._free(block)):
                tail = self._seq[block]
        return tail

    def maintain(self):
        """Erase the next sector ahead of its use, or thin one, where it is time. True if it did.

        Call only when flash may stall for 45 to 400 ms, or a second where the ring is nearly full.
        """
        if self.writable and self.free_slots < _THIN_EARLY and self._thin(_THIN_EARLY, 1):
            return True
        if not self.writable or self._ready >= 0 or self._index < SLOTS // 2 or not self._spare:
            return False
        return self._erase(self._victim())

    # Acknowledgement

    def acknowledge(self, log_id, seq, link):
        """The host has committed everything up to slot `seq`, whose link it shows.

        Raises LEDGER_ACKNOWLEDGEMENT for another log, the future or another history. What was
        acknowledged before is ignored.
        """
        if log_id != self.log_id or seq > self._settled:
            raise ChargekeepError(errors.LEDGER_ACKNOWLEDGEMENT, "seq %d" % seq)
        if seq <= self._acknowledged:
            return
        for block, index, found, _ in self._slots(seq - 1):
            slot = self._fetch(block, index)
            if slot and found == seq and slot[record.LINK_AT : record.CRC_AT] == link:
                break
            raise ChargekeepError(errors.LEDGER_ACKNOWLEDGEMENT, "seq %d: link" % seq)
        self._acknowledged = seq
        # The cursor is durable before any erase that relies on it; else it can wait.
        for block in range(self.sectors):
            if block != self._head and self._seq[block]:
                if self._durable < self._end(block) - 1 <= seq:
                    return self._keep_acknowledgement(seq)

    def _keep_acknowledgement(self, seq):
        try:
            self._store([(record.COUNTER, self._encode([ACKNOWLEDGED, seq]))], 0)
            self._noted(self._next - 1)
        except ChargekeepError as e:
            if e.code != errors.LEDGER_FULL:
                raise
        self._durable = self._acknowledged
        self._header.counters[ACKNOWLEDGED] = seq
        self._count_spare()
