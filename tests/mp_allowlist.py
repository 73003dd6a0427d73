import gc
import hashlib

from authority import NOW, Station, allowlist, chunks, hashed, pages_of
from mptest import raises

from chargekeep import errors
from chargekeep.authorization.loader import Prover
from chargekeep.errors import ChargekeepError


def entries_of(count):
    return [(hashed("id%d" % i), i % 3, NOW + i) for i in range(count)]


async def test_every_entry_is_found_and_no_other():
    s = await Station().start()
    version = 0
    for count, fanout, depth in ((0, 24, 1), (1, 24, 1), (24, 24, 1), (25, 24, 2), (16, 2, 4)):
        version += 1
        entries = entries_of(count)
        header, pages = allowlist(version, entries, fanout=fanout)
        await s.load_list(header, pages)
        listed = s.objects.allowlist
        assert listed.header.version == version and s.objects.wanted() is None
        for h, policy, exp in entries:
            listed.pages_read = 0
            assert listed.look_up(h) == (policy, exp)
            assert listed.pages_read == depth
        for i in range(20):
            assert listed.look_up(hashed("other%d" % i)) is None
        assert listed.look_up(bytes(16)) is None and listed.look_up(b"\xff" * 16) is None


async def test_neighbours_with_equal_separators():
    s = await Station().start()
    same = b"\x40" * 5
    entries = [(same + bytes((i,)) * 11, i, 0) for i in range(5)]
    entries += [(bytes((i,)) * 16, 9, 0) for i in range(200, 220)]
    await s.load_list(*allowlist(1, entries, fanout=5))
    for h, policy, _ in entries:
        assert s.objects.allowlist.look_up(h) == (policy, 0)
    assert s.objects.allowlist.look_up(same + b"\xff" * 11) is None
    assert s.objects.allowlist.look_up(b"\x3f" * 16) is None


async def test_chunks_out_of_order_are_left():
    s = await Station().start()
    header, pages = allowlist(3, entries_of(40), fanout=4)  # 1 + 3 + 10 pages
    await s.objects.accept("allowlist", header)
    assert await s.objects.accept("allowlist", header) is False
    parts = chunks(pages)
    for version, n in ((3, 1), (3, 3), (2, 0), (4, 0), (3, -1)):
        assert await s.objects.accept_chunk(version, n, parts[1]) is False
    assert s.objects.wanted() == (3, 0)
    for n, part in enumerate(parts):
        assert s.objects.allowlist.header is None
        assert s.objects.wanted() == (3, n)
        assert await s.objects.accept_chunk(3, n, part)
        assert await s.objects.accept_chunk(3, n, part) is False
    assert s.objects.allowlist.header.version == 3 and s.ledger.counter(4) == 3
    assert (8, [65003, 3]) in s.ledger.records


async def test_a_wrong_page_is_refused_and_the_right_one_taken():
    s = await Station().start()
    header, pages = allowlist(1, entries_of(40), fanout=4)
    await s.objects.accept("allowlist", header)
    for n, part in enumerate(chunks(pages)):
        for at in range(0, len(part), 509):
            part[at] ^= 0x10
            try:
                await s.objects.accept_chunk(1, n, part)
            except ChargekeepError as e:
                assert e.code == errors.LIST_PAGE
            else:
                raise AssertionError("page accepted at %d" % at)
            part[at] ^= 0x10
            assert s.objects.wanted() == (1, n)
        for wrong in (part[:-1], bytes(len(part) + 1), b"", part[512:]):
            try:
                await s.objects.accept_chunk(1, n, wrong)
            except ChargekeepError as e:
                assert e.code == errors.LIST_PAGE
            else:
                raise AssertionError("length accepted")
        await s.objects.accept_chunk(1, n, part)
    for h, policy, exp in entries_of(40):
        assert s.objects.allowlist.look_up(h) == (policy, exp)


async def test_loading_goes_on_after_a_reboot_while_the_old_list_serves():
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("old"), 0, 0)]))
    header, pages = allowlist(2, entries_of(30), fanout=4)
    await s.objects.accept("allowlist", header)
    for n, part in enumerate(chunks(pages)):
        await s.boot()
        assert s.objects.wanted() == (2, n)
        assert s.objects.allowlist.look_up(hashed("old")) == (0, 0)
        # a torn write of the next page
        with open(s.store.path("allowlist.slot1"), "ab") as f:
            f.write(part[:300])
        await s.boot()
        assert s.objects.wanted() == (2, n)
        await s.objects.accept_chunk(2, n, part)
    assert s.objects.allowlist.look_up(hashed("old")) is None
    assert s.objects.allowlist.look_up(hashed("id7")) == (1, NOW + 7)
    assert not s.health.errors


async def test_a_newer_header_replaces_the_one_being_loaded():
    s = await Station().start()
    await s.objects.accept("allowlist", allowlist(5, entries_of(40))[0])
    try:
        await s.objects.accept("allowlist", allowlist(4, entries_of(9))[0])
    except ChargekeepError as e:
        assert e.code == errors.VERSION_ROLLBACK
    else:
        raise AssertionError("accepted")
    gc.collect()
    await s.load_list(*allowlist(6, entries_of(30)))
    assert s.objects.allowlist.header.version == 6


async def test_a_header_with_known_pages_needs_none():
    s = await Station().start()
    header, pages = allowlist(1, entries_of(30))
    await s.load_list(header, pages)
    await s.objects.accept("allowlist", allowlist(2, entries_of(30), issued_at=NOW + 9)[0])
    assert s.objects.wanted() is None and s.objects.allowlist.header.version == 2
    await s.boot()
    assert s.objects.allowlist.header.version == 2
    assert s.objects.allowlist.look_up(hashed("id7")) == (1, NOW + 7)


async def test_damaged_pages_are_noticed_and_replaced():
    s = await Station().start()
    header, pages = allowlist(1, entries_of(30))
    await s.load_list(header, pages)
    path = s.store.path("allowlist.slot1")
    with open(path, "r+b") as f:
        f.seek(700)
        f.write(b"\x55")
    assert await s.refused("id0") in (errors.LIST_PAGE,)
    for i in range(30):
        code = (await s.policy.decide("id%d" % i, 1)).code
        assert code in (0, errors.LIST_PAGE, errors.CONFIG), code  # never "unknown"
    await s.load_list(allowlist(2, entries_of(30))[0], pages)
    assert s.objects.allowlist.look_up(hashed("id7")) == (1, NOW + 7)
    s.store.remove("allowlist.slot0")
    assert await s.refused("id0") == errors.LIST_PAGE


def test_trees_that_no_look_up_would_leave():
    """Signed nonsense: hashes right, shape wrong."""

    class Header:
        pass

    def prove(pages, count):
        header = Header()
        header.root = hashlib.sha256(pages[0]).digest()
        header.pages = len(pages)
        header.count = count
        prover = Prover(header, lambda n: pages[n])
        for page in pages:
            prover.take(page)

    def index(level, first, children):
        items = b"".join(p[8:13] + hashlib.sha256(p).digest()[:16] for p in children)
        head = bytes((level, len(children), first >> 8, first & 255, 0, 0, 0, 0))
        return head + items + bytes(512 - 8 - len(items))

    entries = entries_of(8)
    good = pages_of(entries, 4)
    assert len(good) == 3
    prove(good, 8)
    leaves = good[1:]
    for pages, count in (
        (good, 7),  # count of the header
        ([index(1, 0, leaves)] + leaves, 8),  # its own child
        ([index(1, 2, leaves)] + leaves, 8),
        ([index(2, 1, leaves)] + leaves, 8),  # a level left out
        ([index(4, 1, leaves)] + leaves, 8),
        ([index(1, 1, leaves)] + leaves + leaves[:1], 12),  # a page that nobody names
        ([index(1, 1, leaves)], 0),  # pages missing
        ([index(1, 1, [bytes(512)]), bytes(512)], 0),  # an empty leaf below a root
        ([bytes((0, 25)) + bytes(510)], 25),
        ([bytes((0, 0, 0, 1)) + bytes(508)], 0),
    ):
        raises(ChargekeepError, prove, pages, count, code=errors.LIST_PAGE)
    odd = bytearray(index(1, 1, leaves))
    odd[8] ^= 1  # a separator that is not its child's first
    raises(ChargekeepError, prove, [bytes(odd)] + leaves, 8, code=errors.LIST_PAGE)


async def test_a_full_disk_leaves_the_old_list():
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("old"), 0, 0)]))
    header, pages = allowlist(2, entries_of(40), fanout=4)
    await s.objects.accept("allowlist", header)
    loader = s.objects.allowlist._loader
    path, loader.path = loader.path, "/nonexistent/slot"
    try:
        await s.objects.accept_chunk(2, 0, chunks(pages)[0])
    except OSError:
        pass
    else:
        raise AssertionError("stored")
    assert s.objects.wanted() == (2, 0)
    loader.path = path
    for n, part in enumerate(chunks(pages)):
        await s.objects.accept_chunk(2, n, part)
    assert s.objects.allowlist.header.version == 2


async def test_what_flash_holds_is_proven_before_the_switch():
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("old"), 0, 0)]))
    header, pages = allowlist(2, entries_of(40), fanout=4)
    await s.objects.accept("allowlist", header)
    parts = chunks(pages)
    for n in range(len(parts) - 1):
        await s.objects.accept_chunk(2, n, parts[n])
    loader = s.objects.allowlist._loader
    pause = loader.pause

    async def decay():
        loader.pause = pause
        with open(s.store.path("allowlist.slot0"), "r+b") as f:
            f.seek(5 * 512 + 100)
            f.write(b"\x55\xaa")

    loader.pause = decay
    try:
        await s.objects.accept_chunk(2, len(parts) - 1, parts[len(parts) - 1])
    except ChargekeepError as e:
        assert e.code == errors.LIST_PAGE
    else:
        raise AssertionError("switched")
    assert s.objects.allowlist.header.version == 1
    assert s.objects.allowlist.look_up(hashed("old")) == (0, 0)
    for n in range(1, len(parts)):  # from the decayed page on
        assert s.objects.wanted() == (2, n)
        await s.objects.accept_chunk(2, n, parts[n])
    assert s.objects.allowlist.look_up(hashed("id7")) == (1, NOW + 7)


async def test_a_new_list_takes_from_the_old_what_has_not_changed():
    s = await Station().start()
    entries = entries_of(29)
    await s.load_list(*allowlist(1, entries, fanout=4))  # 1 + 2 + 8 pages
    gone = sorted(entries)[18]  # of leaf 4; those before it stay as they are
    entries.remove(gone)
    gc.collect()
    header, pages = allowlist(2, entries, fanout=4)
    await s.objects.accept("allowlist", header)
    asked = []
    while s.objects.wanted():
        n = s.objects.wanted()[1]
        asked.append(n)
        await s.objects.accept_chunk(2, n, chunks(pages)[n])
        if n == 0:
            await s.boot()  # what was reused survives
    assert asked == [0, 1, 2], asked
    for h, policy, exp in entries:
        assert s.objects.allowlist.look_up(h) == (policy, exp)
    assert s.objects.allowlist.look_up(gone[0]) is None


async def test_a_new_list_takes_nothing_from_a_damaged_one():
    s = await Station().start()
    entries = entries_of(29)
    await s.load_list(*allowlist(1, entries, fanout=4))
    with open(s.store.path("allowlist.slot1"), "r+b") as f:
        f.seek(6 * 512 + 99)
        f.write(b"\x55\xaa")
    gc.collect()
    await s.load_list(*allowlist(2, entries[1:], fanout=4))
    for h, policy, exp in entries[1:]:
        assert s.objects.allowlist.look_up(h) == (policy, exp)


def test_the_loader_is_gone_when_it_is_done():
    import asyncio
    import sys

    async def main():
        sys.modules.pop("chargekeep.authorization.loader", None)
        s = await Station().start()
        await s.objects.accept("allowlist", allowlist(1, entries_of(40))[0])
        assert s.objects.allowlist._loader
        await s.load_list(*allowlist(2, entries_of(40)))
        assert not s.objects.allowlist._loader
        assert "chargekeep.authorization.loader" not in sys.modules

    asyncio.run(main())
