# also: cpython
from authority import (
    DAY,
    ISSUER,
    NOW,
    ROOT,
    SITE,
    Signer,
    Started,
    Station,
    allowlist,
    claims,
    config,
    entitlement,
    hashed,
    revocation,
    tariff,
    token_text,
    trust_list,
)

from chargekeep import errors
from chargekeep.credential import cose


async def test_accepts_and_says_why():
    s = await Station().start()
    await s.objects.accept("tariff", tariff(3, 7))
    d = await s.accepted(token_text(max_wh=5000, max_s=3600, max_w=11000))
    assert (d.status, d.code, d.stop, d.hearsay) == ("Accepted", 0, False, False)
    assert (d.max_wh, d.max_s, d.max_w) == (5000, 3600, 11000)
    assert (d.tariff_id, d.tariff_version) == (7, 3)
    assert d.id_hash == hashed("DE-ABC-C12345-X")
    assert d.cti == b"\0\0\0\0\0\0\0\1" and d.kid == ISSUER.kid
    assert d.evidence == (NOW + DAY, 1, 1, 0, 0, 0)  # exp, quality, versions
    assert (await s.accepted(entitlement())).cti == d.cti  # bytes will do


async def test_the_tariff_of_the_token_stands():
    s = await Station().start()
    d = await s.accepted(token_text(tariff_id=4, tariff_version=9))
    assert (d.tariff_id, d.tariff_version) == (4, 9)


async def test_station_limits_tighten():
    s = await Station().start()
    await s.objects.accept("config", config(1, {12: 3000, 13: 0, 14: 7000}))
    d = await s.accepted(token_text(max_wh=5000, max_s=60, max_w=11000))
    assert (d.max_wh, d.max_s, d.max_w) == (3000, 60, 7000)
    d = await s.accepted(token_text(max_wh=0, max_w=0))
    assert (d.max_wh, d.max_s, d.max_w) == (3000, 0, 7000)


async def test_refusals_of_tokens():
    s = await Station().start()
    other = Signer(9)
    for text, code, status in (
        (token_text(other), errors.COSE_UNKNOWN_KID, "Invalid"),
        (token_text(ROOT), errors.COSE_UNKNOWN_KID, "Invalid"),
        (token_text(exp=NOW, nbf=NOW - 2), errors.TOKEN_EXPIRED, "Expired"),
        (token_text(nbf=NOW + 1), errors.TOKEN_NOT_YET_VALID, "NotAtThisTime"),
        (token_text(aud="site-2"), errors.TOKEN_AUDIENCE, "NotAtThisLocation"),
        (token_text(aud=SITE + "/cp-2"), errors.TOKEN_AUDIENCE, "NotAtThisLocation"),
        (token_text(aud=SITE + "/"), errors.TOKEN_AUDIENCE, "NotAtThisLocation"),
        (token_text(evse_id=2), errors.TOKEN_EVSE, "NotAtThisLocation"),
        (token_text(limits=[1, 0, 0, 0, 0, 0, 1, 0, 2]), errors.TOKEN_EVSE, "NotAtThisLocation"),
        ("CK1:", errors.TOKEN_FORM, "Invalid"),
        ("CK1:AAAA", errors.COSE_FORM, "Invalid"),
        (token_text() + "=", errors.TOKEN_FORM, "Invalid"),
        (entitlement()[:-2], errors.CBOR_TRUNCATED, "Invalid"),
        (b"\xff" * 700, errors.TOKEN_FORM, "Invalid"),
        ("x" * 37, errors.TOKEN_FORM, "Invalid"),
        ("", errors.TOKEN_FORM, "Invalid"),
        ("UID:", errors.TOKEN_FORM, "Invalid"),
        ("UID:04A1B2C3", errors.UID_DISABLED, "Blocked"),
        ("nobody", errors.ID_UNKNOWN, "Unknown"),
    ):
        d = await s.policy.decide(text, 1, 1)
        assert not d.accepted and d.code == code and d.status == status, (text, d.code, code)
    forged = bytearray(entitlement())
    forged[-1] ^= 1
    assert await s.refused(bytes(forged)) == errors.COSE_SIGNATURE
    d = await s.policy.decide(bytes(forged), 1)
    assert d.kid == ISSUER.kid and d.cti is None and d.id_hash is None


async def test_a_token_for_this_station_only():
    s = await Station().start()
    await s.accepted(token_text(aud=SITE + "/cp-1"))


async def test_malformed_claims():
    s = await Station().start()
    good = claims()

    def without(key):
        return {k: v for k, v in good.items() if k != key}

    limits = [1, 0, 0, 0, 0, 0, 1]
    bad = [without(key) for key in good]
    bad += [dict(good) for _ in range(3)]
    bad[-1][6] = NOW
    bad[-2][-65538] = 1
    bad[-3][8] = {}
    bad = [(b, errors.TOKEN_FORM) for b in bad]
    for kw in (
        {"iss": "x" * 33},
        {"iss": b"op"},
        {"sub": ""},
        {"sub": "x" * 37},
        {"aud": ""},
        {"aud": "x" * 66},
        {"exp": 2**32},
        {"exp": "1"},
        {"exp": True},
        {"nbf": -1},
        {"nbf": NOW, "exp": NOW},
        {"cti": b"1234567"},
        {"cti": "12345678"},
        {"limits": limits[1:]},
        {"limits": limits + [1, 1, 1]},
        {"limits": limits + [0]},
        {"limits": limits + [1, 0]},
        {"limits": limits[:-1] + [-1]},
        {"limits": limits[:-1] + [None]},
        {"limits": limits + [1 << 17 | 127]},
        {"limits": limits + [0 << 7 | 12 << 12]},
        {"limits": limits + [127 | 25 << 7]},
        {"limits": {}},
    ):
        bad.append((claims(**kw), errors.TOKEN_FORM))
    bad += [([], errors.TOKEN_FORM), (None, errors.TOKEN_FORM)]
    for value, code in bad:
        data = ISSUER.seal(cose.ENTITLEMENT, value)
        assert await s.refused(data) == code, value
    assert await s.refused(ISSUER.seal(cose.ENTITLEMENT, b"\xa0\0")) == errors.CBOR_TRAILING


async def test_a_token_is_used_up():
    s = await Station().start()
    text = token_text(use_count=2)
    for tx in (1, 2):
        d = await s.accepted(text)
        s.begin(d, 1, tx)
        s.policy.end(1)
    assert await s.refused(text) == errors.TOKEN_REPLAYED
    await s.boot()
    assert await s.refused(text) == errors.TOKEN_REPLAYED


async def test_budgets_are_over_all_uses():
    s = await Station().start()
    text = token_text(use_count=9, max_wh=1000, max_s=600)
    d = await s.accepted(text)
    s.begin(d, 1, 1)
    s.policy.use(d.cti, 1, 400, 100)
    s.policy.use(d.cti, 1, 300, 100)  # never less
    s.policy.end(1)
    d = await s.accepted(text)
    assert (d.max_wh, d.max_s) == (600, 500)
    s.begin(d, 1, 2)
    await s.boot()  # power fails
    s.policy.started(Started(d, 2), 1)  # no second use
    s.policy.use(d.cti, 2, 600, 100)
    s.policy.end(1)
    assert s.spent.totals(d.cti) == (2, 1000, 200)
    assert await s.refused(text) == errors.TOKEN_BUDGET


async def test_the_same_token_stops_and_another_waits():
    s = await Station().start()
    d = await s.accepted(token_text())
    s.begin(d, 1, 1)
    again = await s.accepted(token_text())
    assert again.stop and again.id_hash == d.id_hash
    other = token_text(sub="other", cti=b"12345678")
    assert await s.refused(other, 1) == errors.EVSE_OCCUPIED
    assert await s.refused(token_text(), 2) == errors.TOKEN_IN_USE
    # a second token of the same driver stops as well; expiry does not lock the driver in
    s.clock.sleep(2 * DAY)
    assert (await s.accepted(token_text(cti=b"abcdefgh"))).stop
    s.policy.end(1)
    assert await s.refused(token_text()) == errors.TOKEN_EXPIRED


async def test_one_token_on_two_evses_at_once():
    s = await Station().start()
    text = token_text(use_count=9)
    one, two = await s.accepted(text, 1), await s.accepted(text, 2)
    s.begin(one, 1, 1)
    try:
        s.begin(two, 2, 2)
    except errors.ChargekeepError as e:
        assert e.code == errors.TOKEN_IN_USE
    else:
        raise AssertionError("both began")
    assert s.spent.totals(one.cti)[0] == 1


async def test_revocations():
    s = await Station().start()
    await s.objects.accept("revocation", revocation(1, [b"\0\0\0\0\0\0\0\1"], [hashed("gone")]))
    assert await s.refused(token_text()) == errors.TOKEN_REVOKED
    assert await s.refused(token_text(sub="gone", cti=b"12345678")) == errors.TOKEN_REVOKED
    assert await s.refused("gone") == errors.TOKEN_REVOKED
    await s.accepted(token_text(cti=b"12345678"))
    assert s.policy.revoked(None, hashed("gone")) and not s.policy.revoked(None, hashed("x"))
    await s.objects.accept("revocation", revocation(2))
    await s.accepted(token_text())


async def test_windows():
    # NOW is a Friday, 08:00 UTC
    s = await Station().start()
    friday, thursday = 1 << 4, 1 << 3

    def text(days, start, end):
        return token_text(limits=[0, 0, 0, 0, 0, 0, 1, days | start << 7 | end << 12])

    for days, start, end, ok in (
        (friday, 8, 9, True),
        (friday, 0, 24, True),
        (127, 9, 10, False),
        (127, 7, 8, False),
        (127 - friday, 0, 24, False),
        (thursday, 22, 9, True),  # the night from Thursday
        (friday, 22, 9, False),
        (friday, 8, 6, True),
        (thursday, 8, 6, False),
        (friday, 8, 8, True),  # all around from 8
    ):
        d = await s.policy.decide(text(days, start, end), 1)
        assert d.accepted == ok, (days, start, end)
        assert ok or d.code == errors.TOKEN_WINDOW
    await s.objects.accept("config", config(1, {3: 120}))
    assert await s.refused(text(127, 8, 9)) == errors.TOKEN_WINDOW  # it is 10:00 there
    await s.accepted(text(127, 10, 11))


async def test_time_that_is_not_certain():
    s = Station(clock_set=False)
    await s.boot()
    await s.objects.accept("trust", trust_list())
    window = token_text(limits=[0, 0, 0, 0, 0, 0, 1, 127 | 24 << 12])
    for floor in (0, NOW):
        s.ledger.counters[2] = floor
        await s.boot()
        await s.accepted(token_text())
        await s.accepted(token_text(nbf=NOW + DAY, exp=NOW + 2 * DAY))
        assert await s.refused(window) == errors.TIME_UNKNOWN
    assert await s.refused(token_text(exp=NOW)) == errors.TOKEN_EXPIRED
    await s.objects.accept("config", config(1, {8: False}))
    assert await s.refused(token_text()) == errors.TIME_UNKNOWN
    assert await s.refused(token_text(exp=NOW)) == errors.TOKEN_EXPIRED


async def test_allowlist_entries():
    s = await Station().start()
    await s.objects.accept("config", config(1, {16: [[0, 0, 0, 0], [7000, 60, 3700, 5]]}))
    entries = [
        (hashed("plain"), 0, 0),
        (hashed("capped"), 1, NOW + 1),
        (hashed("late"), 0, NOW),
        (hashed("odd"), 2, 0),
        (hashed("04A1B2C3"), 0, 0),
    ]
    await s.load_list(*allowlist(1, entries))
    d = await s.accepted("plain")
    assert d.cti is None and d.kid is None and not d.hearsay and d.versions[1] == 1
    assert (d.max_wh, d.max_s, d.max_w, d.tariff_id) == (0, 0, 0, 0)
    d = await s.accepted("capped")
    assert (d.max_wh, d.max_s, d.max_w, d.tariff_id) == (7000, 60, 3700, 5)
    assert await s.refused("late") == errors.TOKEN_EXPIRED
    assert await s.refused("odd") == errors.CONFIG
    assert await s.refused("nobody") == errors.ID_UNKNOWN
    assert await s.refused("UID:04A1B2C3") == errors.UID_DISABLED
    s.begin(d, 1, 1)
    assert (await s.accepted("capped")).stop


async def test_bare_uids_are_capped_hearsay():
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("04A1B2C3"), 0, 0)]))
    await s.objects.accept("config", config(1, {6: True, 7: 2000}))
    d = await s.accepted("UID:04a1b2c3")
    assert d.hearsay and d.max_wh == 2000
    assert await s.refused("UID:04A1B2C4") == errors.ID_UNKNOWN


async def test_unknown_ids():
    s = await Station().start()
    await s.objects.accept("config", config(1, {1: True, 2: 1500}))
    d = await s.accepted("nobody")
    assert d.hearsay and d.max_wh == 1500
    assert await s.refused("UID:01") == errors.UID_DISABLED


async def test_offline_grace():
    s = await Station().start()
    await s.load_list(*allowlist(1, [(hashed("a"), 0, 0)], exp=NOW + 20 * DAY))
    s.clock.sleep(7 * DAY)
    await s.accepted("a")
    s.clock.sleep(1)
    assert await s.refused("a") == errors.LIST_STALE
    await s.objects.accept("config", config(1, {10: True, 11: 999}))
    assert (await s.accepted("a")).max_wh == 999
    s.clock.sleep(13 * DAY)
    assert await s.refused("a") == errors.LIST_STALE  # beyond what the list itself states


async def test_damage_of_the_use_table_is_not_forgiven():
    s = await Station().start()
    d = await s.accepted(token_text())
    s.begin(d, 1, 1)
    s.policy.end(1)
    data = bytearray(s.store.read("spent"))
    data[3] ^= 1
    s.store.write("spent", data)
    for _ in range(2):
        await s.boot()
        assert await s.refused(token_text()) == errors.SPENT_LOST
        assert await s.refused(token_text(nbf=NOW)) == errors.SPENT_LOST
        # what was issued later was certainly not used
        s.clock.sleep(1)
        await s.accepted(token_text(nbf=NOW + 1))
    s.spent.reset()
    await s.accepted(token_text())


async def test_a_verified_token_is_verified_again_under_another_trust_list():
    s = await Station().start()
    calls = []
    real = cose.open_sign1_async

    async def counted(*args):
        calls.append(1)
        return await real(*args)

    cose.open_sign1_async = counted
    try:
        text = token_text()
        await s.accepted(text)
        await s.accepted(text)
        assert len(calls) == 1
        await s.objects.accept("trust", trust_list(2))
        calls.clear()
        await s.accepted(text)
        assert len(calls) == 1
        await s.objects.accept("trust", trust_list(3, revoked=(ISSUER,)))
        assert await s.refused(text) == errors.COSE_ISSUER_REVOKED
        # what failed is not remembered
        forged = bytearray(entitlement())
        forged[-1] ^= 1
        for _ in range(2):
            await s.refused(bytes(forged))
    finally:
        cose.open_sign1_async = real
