"""Verifies a raw image of a ledger's flash, whoever had it in hands before.

What is proven depends on what is given. Alone: checksums, order, no gap. With the seal key of
epoch 0 (kept by the operator): every header and every link was made by the station under exactly
that sector's key, and no closed sector was shortened. With the anchor (last slot that the host
knows): the log goes on from there. Cutting off a tail that nobody has seen, in the sector that is
still open, leaves no trace in the image; only an anchor shows it.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from chargekeep_tools import wire
from chargekeep_tools.log.records import LogError, Record, decode, whole_records
from chargekeep_tools.log.slots import (
    ACKNOWLEDGED,
    COUNTER,
    HEADER,
    MAX_EPOCH,
    SECTOR,
    SLOT,
    SLOTS,
    Header,
    Keys,
    LogId,
    Slot,
    parse_header,
    parse_slot,
    slot_seed,
)

_HEAD_MESSAGE = b"chargekeep head 1"
_HEAD = 12
_THINNED = 13


@dataclass(frozen=True)
class Problem:
    """What must not be. reason: `foreign`, `header`, `key`, `epoch`, `seal`, `link`, `sequence`,
    `missing`, `record`, `anchor` or `signature`."""

    reason: str
    detail: str
    sector: int | None = None
    seq: int | None = None

    def __str__(self) -> str:
        where = "" if self.sector is None else f" in sector {self.sector}"
        return f"{self.reason}{where}: {self.detail}"


@dataclass
class Sector:
    """One sector in place. `slots` are those that count; `first` is their first new seq."""

    block: int
    seq: int
    first: int
    header: Header | None
    slots: list[Slot]
    bad: list[int]  # index of each slot that fails its checksum
    shadowed: list[Slot] = field(default_factory=list)  # valid, but superseded or repeated


@dataclass
class Report:
    """What an image holds. `problems` empty: nothing speaks against it; `notes`: worth a look."""

    log_id: bytes | None = None
    sectors: list[Sector] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    corrected: int = 0
    sealed: bool = False  # a key was given
    signed_seq: int = 0  # newest slot that a head signature covers
    head_seq: int = 0
    head_link: bytes = b""

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(
        self, reason: str, detail: str, sector: int | None = None, seq: int | None = None
    ) -> None:
        self.problems.append(Problem(reason, detail, sector, seq))


def verify_image(
    image: bytes,
    *,
    keys: Keys | None = None,
    anchor: tuple[int, bytes] | None = None,
    log_id: bytes | None = None,
    public_key: bytes | None = None,
) -> Report:
    """Everything that can be said about `image`; raises nothing for bad content.

    anchor: `(seq, link)` of the newest slot that the host has stored. log_id: what it must be.
    public_key: the station's, for signed heads.
    """
    report = Report(sealed=keys is not None)
    if not image or len(image) % SECTOR:
        report.problem("foreign", f"{len(image)} bytes are no whole sectors")
        return report
    _find_sectors(report, image, log_id)
    if report.log_id is None:
        report.problem("foreign", "no ledger")
        return report
    _check_order(report)
    _collect(report)
    if keys is not None:
        _check_seals(report, keys)
    _check_links(report, keys)
    _check_heads(report, public_key)
    if anchor is not None:
        _check_anchor(report, *anchor)
    return report


def _find_sectors(report: Report, image: bytes, log_id: bytes | None) -> None:
    headers: dict[int, Header] = {}
    headless = []
    for block in range(len(image) // SECTOR):
        data = image[block * SECTOR : (block + 1) * SECTOR]
        header = parse_header(data)
        if header is None or (log_id is not None and header.log_id != log_id):
            if header is not None:
                report.problem("foreign", f"block {block} is of another log")
            elif data != b"\xff" * SECTOR:
                headless.append(block)
            continue
        if not 0 < header.seq <= MAX_EPOCH:
            report.problem("epoch", f"block {block} says sector {header.seq}")
            continue
        headers[block] = header
    ids = {header.log_id for header in headers.values()}
    if len(ids) > 1:
        report.problem("foreign", f"{len(ids)} logs in one image")
    if not ids:
        return
    newest = max(headers.values(), key=lambda h: h.seq)
    report.log_id = newest.log_id
    for block, header in headers.items():
        if header.log_id != report.log_id:
            continue
        if header.corrected:
            report.corrected += 1
            report.notes.append(f"sector {header.seq}: one bit of the header put right")
        if header.sectors != len(image) // SECTOR:
            report.problem("header", f"says {header.sectors} sectors", header.seq)
        sector = _sector(image, block, header.seq, header.first, report)
        sector.header = header
        report.sectors.append(sector)
    erased = _erased_next(report, len(image) // SECTOR)
    known = {sector.seq for sector in report.sectors}
    missing = [s for s in range(max(1, newest.seq - 512), newest.seq + 2) if s not in known]
    for block in headless:
        for seq in reversed(missing):
            near = next((s.first for s in _by_seq(report) if s.seq > seq), newest.first)
            sector = _sector(image, block, seq, near, report)
            if sector.slots and (block != erased or seq > newest.seq):
                sector.first = next((s.seq for s in sector.slots if not s.repeated), near)
                report.sectors.append(sector)
                missing.remove(seq)
                report.problem("header", "not readable", seq)
                break
        else:
            report.notes.append(f"block {block} holds nothing readable (a cut erase leaves that)")
    report.sectors = [s for s in _by_seq(report) if s.block != erased or s.seq > newest.seq]


def _erased_next(report: Report, blocks: int) -> int:
    """The block that is used next, or -1: an erase of it may have begun, nothing in it counts."""
    newest = _by_seq(report)[-1]
    if newest.header is None:
        return -1
    acknowledged = newest.header.acknowledged
    for parts in whole_records(newest.slots):
        if not isinstance(parts, Slot) and parts[0].type == COUNTER:
            with suppress(LogError, ValueError, TypeError):  # said where records are collected
                index, value = decode(parts).body
                acknowledged = max(acknowledged, value if index == ACKNOWLEDGED else 0)
    sectors = {sector.block: sector for sector in report.sectors}
    for step in range(1, blocks):
        block = (newest.block + step) % blocks
        if newest.header.data[128 + block // 8] >> block % 8 & 1:
            continue
        if block not in sectors:
            return block
        after = [s.first for s in report.sectors if s.seq > sectors[block].seq]
        if after and min(after) - 1 <= acknowledged:
            return block
    return -1


def _by_seq(report: Report) -> list[Sector]:
    return sorted(report.sectors, key=lambda sector: sector.seq)


def _sector(image: bytes, block: int, seq: int, first: int, report: Report) -> Sector:
    """The slots of a sector that count, by the rules of FORMATS.md section 4."""
    start = block * SECTOR + HEADER
    seed = slot_seed(report.log_id or b"", seq)
    counting: dict[int, Slot] = {}
    sector = Sector(block, seq, first, None, [], [])
    torn: int | None = None  # seq from which the operation does not count, if it was cut
    before: Slot | None = None
    for index in range(SLOTS):
        data = image[start + index * SLOT : start + (index + 1) * SLOT]
        if data == b"\xff" * SLOT:
            continue
        slot = parse_slot(data, seed, seq, index, first)
        if slot is None:
            sector.bad.append(index)
            torn = _whole(counting) if torn is None else torn
            continue
        if not slot.joined:
            again = before is not None and before.repeated and before.seq < slot.seq
            if slot.repeated and not again:
                lost = _whole(counting) if torn is None else torn
                for later in [s for s in counting if s >= max(lost, slot.seq, first)]:
                    sector.shadowed.append(counting.pop(later))
            torn = None
        elif torn is None and (before is None or before.index != index - 1):
            torn = _whole(counting)
        before = slot
        if slot.repeated and (slot.seq in counting or max(counting, default=0) > slot.seq):
            if slot.seq in counting:
                sector.shadowed.append(slot)
            else:
                counting[slot.seq] = slot
            continue
        for later in [s for s in counting if s >= slot.seq]:
            sector.shadowed.append(counting.pop(later))
        counting[slot.seq] = slot
    sector.slots = [counting[s] for s in sorted(counting)]
    return sector


def _whole(counting: dict[int, Slot]) -> int:
    """The seq after the last whole record."""
    return max((s for s in counting if counting[s].last), default=-1) + 1


def _check_order(report: Report) -> None:
    for before, after in pairwise(report.sectors):
        if before.seq == after.seq:
            report.problem("sequence", f"blocks {before.block} and {after.block}", after.seq)
        if before.first > after.first:
            report.problem("sequence", "first seq goes back", after.seq)
        # What the next sector's header does not count was left by a power cut.
        dropped = [slot for slot in before.slots if slot.seq >= after.first]
        before.shadowed += dropped
        before.slots = [slot for slot in before.slots if slot.seq < after.first]
        if before.header and after.header:
            pairs = zip(before.header.counters, after.header.counters)
            if any(new < old for old, new in pairs):
                report.problem("sequence", "a counter goes back", after.seq)
    for sector in report.sectors:
        for slot in [*sector.slots, *sector.shadowed]:
            if slot.corrected:
                report.corrected += 1
                report.notes.append(
                    f"sector {sector.seq} slot {slot.index}: one bit put right (seq {slot.seq})"
                )
        for index in sector.bad:
            report.notes.append(f"sector {sector.seq} slot {index}: fails its checksum")


def _stream(report: Report) -> list[Slot]:
    """All slots that count, in the order of their seqs; a repeated one only where it is needed."""
    slots: dict[int, Slot] = {}
    for sector in report.sectors:
        for slot in sector.slots:
            slots.setdefault(slot.seq, slot)
    return [slots[seq] for seq in sorted(slots)]


def _collect(report: Report) -> None:
    """Records, head and gaps."""
    slots = _stream(report)
    # Of the operation that was last, nothing counts after its first bad slot.
    if report.sectors:
        slots = slots[: len(slots) - _torn(report.sectors[-1])]
    newest = report.sectors[-1]
    header = newest.header
    head_seq = newest.first - 1
    acknowledged = header.acknowledged if header else 0
    report.head_link = header.link if header else b""
    if slots and slots[-1].seq >= head_seq:
        head_seq, report.head_link = slots[-1].seq, slots[-1].link
    report.head_seq = head_seq
    for parts in whole_records(slots):
        if isinstance(parts, Slot):
            report.problem(
                "record", f"part of a record (seq {parts.seq})", parts.sector, parts.seq
            )
            continue
        try:
            record = decode(parts)
        except LogError as e:
            report.problem("record", str(e), parts[0].sector, parts[0].seq)
            continue
        report.records.append(record)
        if record.type == COUNTER and record.body[:1] == [ACKNOWLEDGED]:
            acknowledged = max(acknowledged, record.body[1])
    _check_gaps(report, slots, acknowledged)


def _torn(sector: Sector) -> int:
    """How many slots at the end of the head sector belong to an operation that was cut."""
    good = {slot.index: slot for slot in [*sector.slots, *sector.shadowed]}
    last = max(good, default=-1)
    start = last
    while start > 0 and start in good and good[start].joined:
        start -= 1
    bad = [i for i in range(max(start, 0), last) if i not in good]
    torn = 0
    while torn < len(sector.slots):
        slot = sector.slots[-1 - torn]
        cut = bool(bad) and slot.index > bad[0] and not slot.repeated
        if not cut and slot.last:
            break
        torn += 1
    return torn


def _check_gaps(report: Report, slots: list[Slot], acknowledged: int) -> None:
    thinned = [(r.body[0], r.body[1]) for r in report.records if r.type == _THINNED]
    oldest = report.sectors[0]
    tail = min([s.header.tail for s in report.sectors[-1:] if s.header] or [1])
    if slots:
        holes = [(a.seq + 1, b.seq - 1) for a, b in pairwise(slots) if b.seq != a.seq + 1]
        if slots[0].seq > 1 and (oldest.seq > tail or slots[0].seq > oldest.first):
            holes.insert(0, (min(acknowledged + 1, slots[0].seq), slots[0].seq - 1))
        if report.head_seq > slots[-1].seq:
            holes.append((slots[-1].seq + 1, report.head_seq))
    elif report.head_seq and report.head_seq > acknowledged:
        holes = [(acknowledged + 1, report.head_seq)]
    else:
        holes = []
    for first, last in holes:
        if last <= acknowledged or last < first:
            continue  # the host has them: their sector was free to be erased
        for a, b in sorted(thinned):
            if a <= max(first, acknowledged + 1) <= b:
                first = b + 1
        if first > last:
            continue
        report.problem("missing", f"slots {first} to {last}", seq=first)


def _check_seals(report: Report, keys: Keys) -> None:
    """Each header under exactly its own epoch's key, each end as the next header saw it."""
    for sector in report.sectors:
        header = sector.header
        if header is None:
            continue
        if header.epoch != header.seq:
            report.problem("epoch", f"says epoch {header.epoch}", sector.seq)
        if not header.authentic(keys.at(header.seq)):
            report.problem("seal", "header is not sealed by this sector's key", sector.seq)
        close = keys.close(header.seq - 1, header.first - 1, header.link)
        if close != header.close:
            report.problem("seal", "does not close the sector before with its key", sector.seq)


def _check_links(report: Report, keys: Keys | None) -> None:
    by_seq = {slot.seq: slot for slot in _stream(report)}
    genesis = LogId(report.log_id or b"").genesis
    headers = {s.header.first - 1: s.header.link for s in report.sectors if s.header}
    for seq, link in headers.items():
        slot = by_seq.get(seq)
        if slot is not None and slot.link != link:
            report.problem("link", f"header does not continue seq {seq}", slot.sector + 1, seq)
    if headers.get(0, genesis) != genesis:
        report.problem("link", "does not begin with the log", 1, 0)
    if keys is None:
        return
    for sector in report.sectors:
        for slot in sector.slots:
            before = by_seq.get(slot.seq - 1)
            link = before.link if before else headers.get(slot.seq - 1)
            if slot.seq == 1:
                link = genesis
            if link is None:
                report.notes.append(f"seq {slot.seq}: the link before it is not there to check")
                continue
            epochs = [sector.seq]
            if slot.repeated and slot.seq < sector.first:
                epochs.append(sector.seq - 1)
            if all(slot.link != slot.expected_link(keys.link_key(e), link) for e in epochs):
                report.problem("link", f"seq {slot.seq}", sector.seq, slot.seq)


def _check_heads(report: Report, public_key: bytes | None) -> None:
    links = {slot.seq: slot.link for slot in _stream(report)}
    for record in report.records:
        if record.type != _HEAD:
            continue
        try:
            seq, link, signature = record.body
            message = _HEAD_MESSAGE + (report.log_id or b"") + seq.to_bytes(4, "little") + link
        except (ValueError, TypeError, AttributeError, OverflowError):
            report.problem("signature", "form of a head", seq=record.seq)
            continue
        if links.get(seq, link) != link:
            report.problem("signature", f"head of seq {seq} has another link", seq=record.seq)
        elif public_key is not None and not wire.verify(public_key, message, signature):
            report.problem("signature", f"head of seq {seq}", seq=record.seq)
        elif public_key is not None:
            report.signed_seq = max(report.signed_seq, seq)


def _check_anchor(report: Report, seq: int, link: bytes) -> None:
    if not seq:
        return
    known = dict(_links(report))
    if seq in known:
        if known[seq] != link:
            report.problem("anchor", f"seq {seq} is not what the host has", seq=seq)
    elif seq > report.head_seq:
        report.problem("anchor", f"ends at seq {report.head_seq}, the host has seq {seq}", seq=seq)
    elif not any(s.seq > seq for s in _stream(report)):
        report.problem("anchor", f"nothing after seq {seq}", seq=seq)
    else:
        report.notes.append(f"anchor seq {seq} is no longer in flash")


def _links(report: Report) -> Iterable[tuple[int, bytes]]:
    for sector in report.sectors:
        if sector.header:
            yield sector.header.first - 1, sector.header.link
    for slot in _stream(report):
        yield slot.seq, slot.link
