import gc
import sys

from authority import NOW, Station, allowlist, chunks, delta, hashed

from chargekeep import errors
from chargekeep.errors import ChargekeepError

LEAF = 4
ENTRIES = sorted((hashed("id%d" % i), i % 3, NOW + i) for i in range(30))
GONE = 18
LEFT = ENTRIES[:GONE] + ENTRIES[GONE + 1 :]
FIRST = allowlist(1, ENTRIES, leaf=LEAF)  # 1 + 8 pages
DELTA = delta(ENTRIES, GONE, LEAF)


async def started():
    s = await Station().start()
    await s.load_list(*FIRST)
    return s


def second(version=2, bases=(1,)):
    return allowlist(version, LEFT, leaf=LEAF, bases=bases)


def holds_the_new(s):
    listed = s.objects.allowlist
    assert listed.header.version == 2 and s.objects.wanted() is None
    assert listed.look_up(ENTRIES[GONE][0]) is None
    for h, policy, exp in LEFT:
        assert listed.look_up(h) == (policy, exp)
    assert not [name for name in sys.modules if name.endswith((".delta", ".loader"))]


async def test_a_delta_makes_the_new_list_from_the_old():
    s = await started()
    await s.objects.accept("allowlist", second()[0])
    assert s.objects.wanted() == (2, -1) and s.objects.allowlist.header.version == 1
    assert await s.objects.accept_chunk(2, 0, b"") is False
    assert await s.objects.accept_chunk(2, -1, DELTA) is True
    holds_the_new(s)
    assert (8, [65003, 2]) in s.ledger.records and s.ledger.counter(4) == 2
    await s.boot()
    holds_the_new(s)


async def test_no_delta_from_another_list():
    s = await started()
    for version, bases in ((2, (2, 3)), (3, ())):
        await s.objects.accept("allowlist", second(version, bases)[0])
        assert s.objects.wanted() == (version, 0)
    s = await Station().start()
    await s.objects.accept("allowlist", second()[0])
    assert s.objects.wanted() == (2, 0)  # no list yet


async def test_what_a_delta_does_not_give_comes_in_chunks():
    for bad, missing in ((b"\xff" * 40, 0), (DELTA[:-2], 0), (b"", 0), (b"\x40\x01" * 1000, 0)):
        s = None
        gc.collect()
        s = await started()
        header, pages = second()
        await s.objects.accept("allowlist", header)
        try:
            await s.objects.accept_chunk(2, -1, bad)
        except ChargekeepError as e:
            assert e.code == errors.LIST_PAGE
        else:
            raise AssertionError("taken")
        assert s.objects.wanted() == (2, missing) and s.objects.allowlist.header.version == 1
        while s.objects.wanted():
            n = s.objects.wanted()[1]
            await s.objects.accept_chunk(2, n, chunks(pages)[n])
        holds_the_new(s)


async def test_a_damaged_base_is_noticed():
    s = await started()
    with open(s.store.path("allowlist.slot1"), "r+b") as f:
        f.seek(6 * 512 + 40)
        f.write(b"\x55\xaa")
    header, pages = second()
    await s.objects.accept("allowlist", header)
    try:
        await s.objects.accept_chunk(2, -1, DELTA)
    except ChargekeepError as e:
        assert e.code == errors.LIST_PAGE
    else:
        raise AssertionError("taken")
    assert s.objects.wanted() == (2, 0)
    await s.load_list(header, pages)
    holds_the_new(s)


async def test_a_delta_that_does_not_come_is_not_waited_for():
    s = await started()
    header, pages = second()
    await s.objects.accept("allowlist", header)
    assert s.objects.wanted() == (2, -1)
    assert await s.objects.accept("allowlist", header) is False  # connected once more
    assert s.objects.wanted() == (2, 0)
    await s.load_list(header, pages)
    holds_the_new(s)


async def test_it_goes_on_after_a_reboot():
    header, pages = second()
    for there in range(1, len(pages)):
        s = None
        gc.collect()
        s = await started()
        await s.objects.accept("allowlist", header)
        with open(s.store.path("allowlist.slot0"), "wb") as f:
            for page in pages[:there]:
                f.write(page)
            f.write(pages[there][:99])
        await s.boot()
        if s.objects.wanted():  # what follows was in the old list, to the end
            assert s.objects.wanted() == (2, -1)
            await s.objects.accept_chunk(2, -1, DELTA)
        holds_the_new(s)
