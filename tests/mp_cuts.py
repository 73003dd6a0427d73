# The authorization stage on a real file system (littlefs, on a device in RAM) with the power cut
# at every single program and erase: nothing goes back, nothing is counted twice or not at all.
# heap: 512k
import gc
import os

from authority import (
    DAY,
    ISSUER,
    NOW,
    Signer,
    Station,
    allowlist,
    config,
    delta,
    hashed,
    token_text,
    trust_list,
)
from disk_sim import Disk, fresh, mounted

from chargekeep import errors

OLD = [(hashed("old"), 0, 0)]
NEW = sorted((hashed("new%d" % i), 0, 0) for i in range(9))
OLD_LIST = allowlist(1, OLD)
NEW_LIST = allowlist(2, NEW, fanout=3)
TOKEN = token_text(use_count=2)
FIRST = trust_list()
SECOND = trust_list(2, ((ISSUER, 255, 0, NOW + DAY), (Signer(3), 255, 0, NOW + DAY)))
SETTINGS = [config(i, {12: 100 + i}) for i in (1, 2)]


async def every_cut(prepare, act, state, old, new):
    """`act` with the power cut before each step of the disk. The ledger is of RAM: its own cuts
    are in mp_ledger_cuts.py, those between the two in mp_objects.py."""
    disk = fresh()
    s = Station(mounted(disk))
    await s.boot()
    await s.objects.accept("trust", FIRST)
    await prepare(s)
    before, counters = disk.data, list(s.ledger.counters)
    os.umount("/s")
    cut, done, seen = 0, False, []
    while not done:
        s = None
        gc.collect()
        disk = Disk(bytearray(before))
        s = Station(mounted(disk))
        s.ledger.counters[:] = counters
        await s.boot()
        assert state(s) == old
        disk.cut_at = disk.steps + cut
        try:
            await act(s)
            done = True
        except (OSError, errors.ChargekeepError):
            assert disk.dead
        os.umount("/s")
        ledger = s.ledger
        for _ in range(2):
            gc.collect()
            s = Station(mounted(Disk(disk.data)), ledger)
            await s.boot()
            after = state(s)
            os.umount("/s")
            assert after in ((new,) if done else (old, new)), (cut, after)
            assert not s.health.errors, s.health.errors
            assert not seen or seen[-1] == old or after == new, (cut, "went back")
        seen.append(after)
        s = Station(mounted(Disk(disk.data)), ledger)
        await s.boot()
        await act(s)
        assert state(s) == new
        os.umount("/s")
        cut += 1
    assert cut > 4 and old in seen
    print("%d power cuts" % (cut - 1))


async def nothing(s):
    pass


async def test_every_cut_of_a_version_update():
    async def prepare(s):
        await s.objects.accept("config", SETTINGS[0])

    async def act(s):
        await s.objects.accept("config", SETTINGS[1])

    await every_cut(prepare, act, lambda s: s.objects.config.max_wh, 101, 102)


async def test_every_cut_of_a_trust_rotation():
    async def act(s):
        await s.objects.accept("trust", SECOND)

    await every_cut(nothing, act, lambda s: s.objects.trust.version, 1, 2)


async def test_every_cut_of_a_list_switch():
    async def prepare(s):
        await s.load_list(*OLD_LIST)

    async def act(s):
        await s.load_list(*NEW_LIST)

    def state(s):
        listed = s.objects.allowlist
        return (
            listed.header.version,
            listed.look_up(OLD[0][0]) is not None,
            sum(1 for entry in NEW if listed.look_up(entry[0])),
        )

    await every_cut(prepare, act, state, (1, True, 0), (2, False, 9))


async def test_every_cut_of_a_delta():
    header, pages = allowlist(2, NEW[:4] + NEW[5:], leaf=3, bases=(1,))
    before = allowlist(1, NEW, leaf=3)

    async def prepare(s):
        await s.load_list(*before)

    async def act(s):
        await s.load_list(header, pages, delta(NEW, 4, 3))

    def state(s):
        listed = s.objects.allowlist
        return listed.header.version, sum(1 for entry in NEW if listed.look_up(entry[0]))

    await every_cut(prepare, act, state, (1, 9), (2, 8))


async def test_every_cut_of_a_use_count():
    async def prepare(s):
        d = await s.accepted(TOKEN)
        s.begin(d, 1, 1)
        s.policy.use(d.cti, 1, 500, 60)
        s.policy.end(1)

    async def act(s):
        if s.spent.totals(b"\0\0\0\0\0\0\0\1")[0] < 2:
            d = await s.accepted(TOKEN)
            s.begin(d, 1, 2)
            s.policy.end(1)
        assert await s.refused(TOKEN) == errors.TOKEN_REPLAYED

    def state(s):
        return s.spent.totals(b"\0\0\0\0\0\0\0\1")

    await every_cut(prepare, act, state, (1, 500, 60), (2, 500, 60))
