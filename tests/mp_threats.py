# One test for each row of firmware/THREATS.md that the authorization stage answers; the attacker
# has what the row says he has. The rows of ledger and update name tests of those.
import gc

from authority import (
    DAY,
    ISSUER,
    NOW,
    ROOT,
    SITE,
    RamLedger,
    Signer,
    Started,
    Station,
    allowlist,
    command,
    config,
    entitlement,
    hashed,
    revocation,
    tariff,
    time_statement,
    token_text,
    trust_list,
)

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.store import Store

MALLORY = Signer(66)


async def code_of(awaitable):
    try:
        await awaitable
    except ChargekeepError as e:
        return e.code
    return 0


async def test_spoofed_issuer():
    s = await Station().start()
    for forged in (
        token_text(MALLORY),
        token_text(ROOT),  # not even the root key issues tokens
    ):
        assert await s.refused(forged) == errors.COSE_UNKNOWN_KID
    # Mallory's signature under the issuer's kid
    mixed = Signer(66)
    mixed.kid = ISSUER.kid
    assert await s.refused(entitlement(mixed)) == errors.COSE_SIGNATURE
    listed = trust_list(9, ((MALLORY, 255, 0, NOW + DAY),), root=MALLORY)
    assert await code_of(s.objects.accept("trust", listed)) == errors.COSE_UNKNOWN_KID


async def test_tampered_token():
    s = await Station().start()
    token = entitlement(max_wh=1000)
    for at in range(0, len(token), 3):
        changed = bytearray(token)
        changed[at] ^= 0x21
        await s.refused(bytes(changed))
    assert (await s.accepted(token)).max_wh == 1000


async def test_replayed_token():
    s = await Station().start()
    d = await s.accepted(token_text())
    s.begin(d, 1, 1)
    s.policy.end(1)
    for _ in range(3):
        assert await s.refused(token_text()) == errors.TOKEN_REPLAYED
        await s.boot()


async def test_replayed_command():
    s = await Station().start()
    ran = []

    async def on_command(number, arguments):
        ran.append(number)

    s.objects.on_command = on_command
    stop = command(4, 1, [1])
    await s.objects.accept("command", stop)
    await s.objects.accept("command", command(5, 3, []))
    assert await code_of(s.objects.accept("command", stop)) == errors.VERSION_ROLLBACK
    held_back = command(6, 3, [], exp=NOW + 60)
    s.clock.sleep(61)
    assert await code_of(s.objects.accept("command", held_back)) == errors.COMMAND_EXPIRED
    assert ran == [1, 3]


async def test_rolled_back_list():
    """The broker, or who stole a copy of the flash, has older lists, all of them well signed."""
    s = await Station().start()
    first = allowlist(1, [(hashed("thief"), 0, 0)])
    await s.load_list(*first)
    stolen = {name: s.store.read(name) for name in ("allowlist", "allowlist.slot1")}
    await s.load_list(*allowlist(2, [(hashed("honest"), 0, 0)]))
    assert await code_of(s.objects.accept("allowlist", first[0])) == errors.VERSION_ROLLBACK
    for name in stolen:
        s.store.write(name, stolen[name])
    await s.boot()
    assert s.health.errors == {errors.VERSION_ROLLBACK: 1}
    assert await s.refused("thief") == errors.ID_UNKNOWN
    assert "allowlist" in s.objects.missing()


async def test_rolled_back_time():
    s = Station(clock_set=False)
    await s.boot()
    await s.objects.accept("trust", trust_list())
    await s.objects.accept("time", time_statement(1, NOW + 2 * DAY))
    old = time_statement(2, NOW)  # an honest statement, held back for two days
    assert await code_of(s.objects.accept("time", old)) == errors.TIME_STEP_BACK
    await s.boot()  # the battery is pulled; NTP lies
    assert not s.timebase.hint(NOW)
    assert await s.refused(token_text(exp=NOW + DAY)) == errors.TOKEN_EXPIRED


async def test_downgraded_policy():
    """Settings, tariffs and revocations of an earlier time, put back into the files."""
    s = await Station().start()
    await s.objects.accept("config", config(1, {1: True, 6: True}))
    await s.objects.accept("revocation", revocation(1))
    lax = {kind: s.store.read(kind) for kind in ("config", "revocation")}
    await s.objects.accept("config", config(2, {}))
    await s.objects.accept("revocation", revocation(2, [], [hashed("gone")]))
    for kind in lax:
        s.store.write(kind, lax[kind])
    await s.boot()
    assert await s.refused("anybody") == errors.LIST_STALE  # who is revoked is not known
    assert await s.refused("UID:01020304") == errors.UID_DISABLED
    assert s.health.errors == {errors.VERSION_ROLLBACK: 2}


async def test_confused_types():
    s = await Station().start()
    made = {
        "trust": trust_list(9),
        "allowlist": allowlist(9, [])[0],
        "revocation": revocation(9),
        "tariff": tariff(9),
        "config": config(9, {}),
        "command": command(9, 3, []),
        "time": time_statement(9, NOW),
    }
    for kind in made:
        for other in made:
            if kind != other:
                code = await code_of(s.objects.accept(kind, made[other]))
                assert code in (errors.COSE_CONTENT_TYPE, errors.COSE_UNKNOWN_KID)
        assert await code_of(s.objects.accept(kind, entitlement())) in (
            errors.COSE_CONTENT_TYPE,
            errors.COSE_UNKNOWN_KID,
        )
        assert await s.refused(made[kind]) in (errors.COSE_CONTENT_TYPE, errors.COSE_UNKNOWN_KID)


async def test_another_station():
    s = await Station().start()
    assert await s.refused(token_text(aud="site-2")) == errors.TOKEN_AUDIENCE
    assert await s.refused(token_text(aud=SITE + "/cp-2")) == errors.TOKEN_AUDIENCE
    assert await s.refused(token_text(evse_id=2), 1) == errors.TOKEN_EVSE
    for data in (config(9, {}, site="site-2"), config(9, {}, station="cp-2")):
        assert await code_of(s.objects.accept("config", data)) == errors.OBJECT_SITE


async def test_cloned_card():
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("04A1B2C3"), 0, 0)]))
    assert await s.refused("UID:04A1B2C3") == errors.UID_DISABLED
    await s.objects.accept("config", config(1, {6: True, 7: 3000}))
    d = await s.accepted("UID:04A1B2C3")
    assert d.evidence[6:] == (True,) and d.max_wh == 3000  # its Started record says so
    # two cards at once
    s.begin(d, 1, 1)
    assert await s.refused("UID:04A1B2C3", 2) == errors.TOKEN_IN_USE


async def test_copied_token_at_two_evses():
    s = await Station().start()
    text = token_text(use_count=5)
    d = await s.accepted(text, 1)
    s.begin(d, 1, 1)
    assert await s.refused(text, 2) == errors.TOKEN_IN_USE
    await s.boot()
    s.policy.started(Started(d, 1), 1)
    assert await s.refused(text, 2) == errors.TOKEN_IN_USE


async def test_revoked_issuer():
    s = await Station().start()
    other = Signer(3)
    both = ((ISSUER, 255, 0, NOW + DAY), (other, 255, 0, NOW + DAY))
    await s.load_list(*allowlist(1, [(hashed("one"), 0, 0)]))
    await s.accepted(token_text())
    await s.objects.accept("trust", trust_list(2, both, revoked=(ISSUER,)))
    for _ in range(2):
        assert await s.refused(token_text()) == errors.COSE_ISSUER_REVOKED
        assert await s.refused("one") == errors.ID_UNKNOWN
        await s.accepted(token_text(other, cti=b"12345678"))
        await s.boot()
    assert await code_of(s.objects.accept("trust", trust_list(1))) == errors.VERSION_ROLLBACK


async def test_issuer_beyond_its_scope():
    s = await Station().start()
    await s.objects.accept("trust", trust_list(2, ((ISSUER, 1, 0, NOW + DAY),)))
    await s.accepted(token_text())
    for kind, data in (("command", command(1, 3, [])), ("config", config(1, {}))):
        assert await code_of(s.objects.accept(kind, data)) == errors.COSE_ISSUER_SCOPE


class FullStore(Store):
    full = False

    def write(self, name, data):
        if self.full:
            raise OSError(28)
        Store.write(self, name, data)


async def test_exhausted_flash():
    s = Station()
    s.store = FullStore(s.root)
    await s.start()
    text = token_text(use_count=2)
    first = await s.accepted(text)
    s.begin(first, 1, 1)
    s.policy.end(1)
    s.store.full = True
    d = await s.accepted(text)
    try:
        s.begin(d, 1, 2)
    except ChargekeepError as e:
        assert e.code == errors.SPENT_FULL  # nothing may flow that cannot be counted
    else:
        raise AssertionError("began")
    for kind, data in (("config", config(1, {})), ("trust", trust_list(2))):
        try:
            await s.objects.accept(kind, data)
        except OSError:
            continue
        raise AssertionError("accepted")
    s.store.full = False
    await s.boot()
    assert s.objects.trust.version == 1 and s.spent.totals(d.cti)[0] == 1


async def test_flooded_use_table():
    """Many valid tokens: the table is bounded, and none of it is forgotten before it expires."""
    s = await Station().start()
    s.spent._capacity = 20
    for i in range(20):
        gc.collect()
        d = await s.accepted(token_text(cti=b"flood%03d" % i))
        s.begin(d, 1, i)
        s.policy.end(1)
    d = await s.accepted(token_text(cti=b"onemore!"))
    try:
        s.begin(d, 1, 99)
    except ChargekeepError as e:
        assert e.code == errors.SPENT_FULL
    else:
        raise AssertionError("began")
    for i in range(20):
        assert await s.refused(token_text(cti=b"flood%03d" % i)) == errors.TOKEN_REPLAYED


async def test_read_flash():
    """Who reads the files finds no IdToken in them."""
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("DE-ABC-C12345-X"), 0, 0)]))
    await s.objects.accept("revocation", revocation(1, [], [hashed("DE-ABC-C99999-Y")]))
    d = await s.accepted(token_text())
    s.begin(d, 1, 1)
    for name in ("allowlist", "allowlist.slot1", "revocation", "spent", "trust"):
        data = s.store.read(name)
        assert data and b"C12345" not in data and b"C99999" not in data, name
    assert RamLedger
