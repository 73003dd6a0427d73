# A station with its real ledger on (emulated) flash and its store on disk, presented the same
# used-up tokens ten thousand times, over fifty boots and power cuts.
# heap: 320k
import gc

from authority import (
    ISSUER,
    NOW,
    Station,
    entitlement,
    token_text,
    trust_list,
)
from mptest import folder
from nor import NorFile

from chargekeep import errors
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError
from chargekeep.ledger.ring import Ledger
from chargekeep.store import Store

KEY = bytes(32)
_BOOTS = 50
_PRESENTED = 200  # a boot


class Cut(BaseException):
    pass


class CutStore(Store):
    cut_in = 1 << 30

    def write(self, name, data):
        self.cut_in -= 2
        if self.cut_in == -2:
            raise Cut
        Store.write(self, name, data)
        if self.cut_in == -1:
            raise Cut


class Stamps:
    boot_id = 1

    def stamp(self):
        return [NOW, 3, self.boot_id, 0]


async def booted(root, device, stamps):
    gc.collect()
    ledger = Ledger(device, KEY, stamps)
    ledger.mount()
    boot_id = stamps.boot_id = ledger.counter(0) + 1
    ledger.advance(0, boot_id)
    station = Station(CutStore(root), ledger)
    await station.boot()
    if boot_id == 1:
        await station.objects.accept("trust", trust_list())
    assert station.objects.trust.version == 1 and ledger.counter(3) == 1
    return station


async def test_ten_thousand_replays_over_fifty_boots():
    root = folder()
    path = root + "/flash.nor"
    device = NorFile(path, 16)
    Ledger.format(device, b"l" * 16, KEY)
    stamps = Stamps()
    tx = presented = cuts = 0
    tokens = [token_text(cti=b"used%04d" % i, use_count=2) for i in range(5)]
    uses = [0] * len(tokens)
    for boot in range(_BOOTS):
        s = d = None
        s = await booted(root, device, stamps)
        if boot < 20:  # two uses of each, with a power cut in, before or after each
            i = boot % 5
            tx += 1
            s.store.cut_in = boot % 4
            d = await s.policy.decide(tokens[i], 1)
            try:
                if d.accepted:
                    s.begin(d, 1, tx)
                    uses[i] += 1
                    s.policy.use(d.cti, tx, 100, 60)
                    s.policy.end(1)
            except Cut:
                cuts += 1
                s = None
                s = await booted(root, device, stamps)
        spent = [s.spent.totals(b"used%04d" % i)[0] for i in range(5)]
        if boot == 20:
            for i in range(5):  # what the cuts left
                for _ in range(spent[i], 2):
                    tx += 1
                    d = await s.accepted(tokens[i])
                    s.begin(d, 1, tx)
                    s.policy.end(1)
        if boot > 20:
            assert spent == [2] * 5
            for i in range(_PRESENTED):
                presented += 1
                assert await s.refused(tokens[i % 5], 1 + i % 2) == errors.TOKEN_REPLAYED
        assert max(uses) <= 2 and max(spent) <= 2
    while presented < 10_000:
        presented += 1
        assert await s.refused(tokens[presented % 5]) == errors.TOKEN_REPLAYED
    device.close()
    print("%d replays, %d power cuts, %d uses" % (presented, cuts, sum(spent)))


async def test_versions_in_the_real_ledger():
    root = folder()
    path = root + "/flash.nor"
    device = NorFile(path, 16)
    Ledger.format(device, b"l" * 16, KEY)
    stamps = Stamps()
    s = await booted(root, device, stamps)
    await s.objects.accept("trust", trust_list(4))
    for _ in range(3):
        ledger = Ledger(device, KEY, stamps)
        ledger.mount()
        s = await Station(Store(root), ledger).boot()
        assert s.objects.trust.version == 4
        try:
            await s.objects.accept("trust", trust_list(3))
        except ChargekeepError as e:
            assert e.code == errors.VERSION_ROLLBACK
        else:
            raise AssertionError("went back")
    kinds = [(kind, body[4:]) for _, kind, body in ledger.records()]
    assert (8, [cose.TRUST_LIST, 4]) in kinds, kinds
    assert ISSUER and entitlement
    device.close()
