import gc

from authority import (
    DAY,
    ISSUER,
    NOW,
    ROOT,
    RamLedger,
    Signer,
    Station,
    allowlist,
    command,
    config,
    hashed,
    payload,
    revocation,
    signed,
    tariff,
    time_statement,
    token_text,
    trust_list,
)

from chargekeep import errors
from chargekeep.authorization import command as commands
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError

OTHER = Signer(3)
ONE = [(hashed("one"), 0, 0)]
TWO = [(hashed("two"), 0, 0)]


async def refusal(station, kind, data):
    try:
        await station.objects.accept(kind, data)
    except ChargekeepError as e:
        return e.code
    return 0


def made(kind, version, **kw):
    """Some object of `kind`."""
    if kind == "trust":
        return trust_list(version, **kw)
    if kind == "allowlist":
        return allowlist(version, ONE, **kw)[0]
    if kind == "revocation":
        return revocation(version, **kw)
    if kind == "tariff":
        return tariff(version, **kw)
    if kind == "config":
        return config(version, {12: 100 + version}, **kw)
    if kind == "command":
        return command(version, commands.REBOOT, [], **kw)
    return time_statement(version, NOW + version, **kw)


KINDS = ("trust", "allowlist", "revocation", "tariff", "config", "command", "time")


async def test_each_kind_takes_effect_once():
    s = await Station().start()
    seen = []

    async def on_command(number, arguments):
        seen.append((number, arguments))

    s.objects.on_command = on_command
    s.objects.on_change = seen.append
    for kind in KINDS[2:]:
        data = made(kind, 5)
        assert await s.objects.accept(kind, data) is True
        assert await s.objects.accept(kind, data) is False
    assert seen == ["revocation", "tariff", "config", (commands.REBOOT, []), "time"]
    assert s.objects.tariff.id == 1 and s.objects.tariff.version == 5
    assert s.objects.config.max_wh == 105 and s.objects.config.version == 5
    assert s.timebase.now() == NOW + 5 and s.timebase.quality == 3
    assert s.ledger.counters[2:10] == [NOW + 5, 1, 0, 5, 5, 5, 5, 5]
    assert s.ledger.records == [
        (8, [65001, 1]),
        (8, [65004, 5]),
        (8, [65005, 5]),
        (8, [65006, 5]),
        (8, [65007, 5]),
        (7, [NOW, NOW + 5, 1]),
        (8, [65008, 5]),
    ]


async def test_versions_never_go_back():
    s = await Station().start()
    for kind in KINDS:
        if kind == "allowlist":
            await s.load_list(*allowlist(7, ONE))
        else:
            await s.objects.accept(kind, made(kind, 7))
    for boot in (False, True):
        if boot:
            await s.boot()
        for kind in KINDS:
            for version in (1, 6):
                assert await refusal(s, kind, made(kind, version)) == errors.VERSION_ROLLBACK
    # the same version with other content is no better
    assert await refusal(s, "config", config(7, {12: 1})) == errors.VERSION_ROLLBACK
    assert await refusal(s, "allowlist", allowlist(7, TWO)[0]) == errors.VERSION_ROLLBACK
    assert s.objects.config.max_wh == 107


async def test_nothing_stands_in_for_another():
    s = await Station().start()
    for kind in KINDS:
        for other in KINDS:
            if kind != other:
                assert await refusal(s, kind, made(other, 9)) in (
                    errors.COSE_CONTENT_TYPE,
                    errors.COSE_UNKNOWN_KID,
                ), (kind, other)
    assert await refusal(s, "nonsense", made("config", 9)) == errors.OBJECT_FORM


async def test_other_sites_and_stations():
    s = await Station().start()
    for kind in KINDS:
        assert await refusal(s, kind, made(kind, 9, site="site-2")) == errors.OBJECT_SITE
        assert await refusal(s, kind, made(kind, 9, station="cp-2")) == errors.OBJECT_SITE
    assert await s.objects.accept("config", config(9, {}, station="cp-1"))


async def test_scope_validity_and_revocation_of_issuers():
    s = await Station().start()
    rows = ((ISSUER, 2, 0, NOW + DAY), (OTHER, 8, NOW + DAY, NOW + 9 * DAY))
    await s.objects.accept("trust", trust_list(2, rows))
    for kind in ("tariff", "config", "command", "time"):
        assert await refusal(s, kind, made(kind, 9)) == errors.COSE_ISSUER_SCOPE
    assert (
        await refusal(s, "config", made("config", 9, signer=OTHER)) == errors.COSE_ISSUER_EXPIRED
    )
    assert await s.refused(token_text()) == errors.COSE_ISSUER_SCOPE
    await s.objects.accept("revocation", made("revocation", 9))
    s.clock.sleep(DAY)
    assert await refusal(s, "revocation", made("revocation", 10)) == errors.COSE_ISSUER_EXPIRED
    await s.objects.accept("config", made("config", 9, signer=OTHER))
    await s.objects.accept("trust", trust_list(3, rows, revoked=(OTHER,)))
    code = await refusal(s, "config", made("config", 10, signer=OTHER))
    assert code == errors.COSE_ISSUER_REVOKED
    assert await refusal(s, "trust", trust_list(4, root=ISSUER)) == errors.COSE_UNKNOWN_KID


async def test_rotation_with_overlap():
    s = await Station().start()
    both = ((ISSUER, 255, 0, NOW + DAY), (OTHER, 255, 0, NOW + 99 * DAY))
    await s.objects.accept("config", made("config", 1))
    await s.objects.accept("trust", trust_list(2, both))
    await s.accepted(token_text())
    await s.accepted(token_text(OTHER, cti=b"12345678"))
    s.clock.sleep(DAY)
    assert await s.refused(token_text(nbf=NOW, exp=NOW + 9 * DAY)) == errors.COSE_ISSUER_EXPIRED
    await s.boot(NOW + DAY)
    assert s.objects.config.max_wh == 101  # accepted in time: stays in force
    await s.objects.accept("trust", trust_list(3, both[1:]))
    assert s.objects.config.max_wh == 0  # nobody vouches for it any more
    assert list(s.health.errors) == [errors.COSE_UNKNOWN_KID]
    assert s.objects.missing() == ["config"]


async def test_what_a_revoked_issuer_signed_goes_but_not_what_it_revoked():
    s = await Station().start()
    await s.load_list(*allowlist(1, ONE))
    await s.objects.accept("revocation", revocation(1, [], [hashed("gone")]))
    await s.objects.accept("tariff", tariff(1))
    await s.objects.accept("config", config(1, {1: True}))
    await s.accepted("one")
    await s.objects.accept("trust", trust_list(2, revoked=(ISSUER,)))
    for _ in range(2):
        assert s.objects.tariff.id == 0 and not s.objects.config.offline_tx_for_unknown_id
        assert await s.refused("one") == errors.ID_UNKNOWN
        assert await s.refused("gone") == errors.TOKEN_REVOKED
        assert sorted(s.objects.missing()) == ["allowlist", "config", "tariff"]
        await s.boot()


async def test_files_put_back_or_taken_away():
    s = await Station().start()
    old = {}
    for version in (1, 2):
        for kind in ("config", "tariff", "revocation"):
            await s.objects.accept(kind, made(kind, version))
            old[kind] = old.get(kind) or s.store.read(kind)
    newest = s.store.read("config")
    for kind in old:
        s.store.write(kind, old[kind])
    await s.boot()
    assert s.health.errors == {errors.VERSION_ROLLBACK: 3}
    assert s.objects.config.max_wh == 0 and s.objects.tariff.id == 0
    assert await s.refused(token_text()) == errors.LIST_STALE  # who was revoked is not known
    # the host sends again what it has retained: the same version is welcome now, an older is not
    assert await refusal(s, "config", old["config"]) == errors.VERSION_ROLLBACK
    assert await s.objects.accept("config", newest) and s.objects.config.max_wh == 102
    await s.objects.accept("revocation", made("revocation", 2))
    await s.accepted(token_text())
    s.store.remove("revocation")
    s.store.write("tariff", b"\0garbage")
    await s.boot()
    assert await s.refused(token_text()) == errors.LIST_STALE
    assert s.health.errors == {errors.COSE_FORM: 1}


async def test_a_lost_trust_list_takes_all_along_and_brings_all_back():
    s = await Station().start()
    await s.load_list(*allowlist(1, ONE))
    for kind in ("revocation", "tariff", "config"):
        await s.objects.accept(kind, made(kind, 1))
    listed = s.store.read("trust")
    s.store.remove("trust")
    await s.boot()
    assert len(s.objects.missing()) == 5
    assert await s.refused(token_text()) == errors.COSE_UNKNOWN_KID
    assert await s.objects.accept("trust", listed)
    assert s.objects.missing() == [] and s.objects.config.max_wh == 101
    await s.accepted(token_text())
    await s.accepted("one")


async def test_bodies_that_are_refused():
    s = await Station().start()
    key = ISSUER.public
    row = [ISSUER.kid, key, 1, 0, NOW]
    for kind, body in (
        ("trust", {10: [row], 11: [], 12: 0}),
        ("trust", {10: [row]}),
        ("trust", {10: [row[:4]], 11: []}),
        ("trust", {10: [row, row], 11: []}),
        ("trust", {10: [[ROOT.kid] + row[1:]], 11: []}),
        ("trust", {10: [row[:2] + [256, 0, NOW]], 11: []}),
        ("trust", {10: [row[:3] + [NOW, NOW]], 11: []}),
        ("trust", {10: [], 11: [b"123"]}),
        ("trust", {10: [row] * 17, 11: []}),
        ("revocation", {10: [b"1234567"], 11: []}),
        ("revocation", {10: [b"22222222", b"11111111"], 11: []}),
        ("revocation", {10: [b"11111111", b"11111111"], 11: []}),
        ("revocation", {10: [], 11: [b"11111111"]}),
        ("tariff", {10: 0, 11: "EUR", 12: 1, 13: 1, 14: 1}),
        ("tariff", {10: 1, 11: "EURO", 12: 1, 13: 1, 14: 1}),
        ("tariff", {10: 1, 11: "EUR", 12: -1, 13: 1, 14: 1}),
        ("config", {10: []}),
        ("config", {10: {99: 1}}),
        ("config", {10: {1: 1}}),
        ("command", {10: 6, 11: [], 12: NOW + 9}),
        ("command", {10: 1, 11: [], 12: NOW + 9}),
        ("command", {10: 1, 11: ["1"], 12: NOW + 9}),
        ("command", {10: True, 11: [], 12: NOW + 9}),
        ("time", {10: 0}),
        ("time", {10: "now"}),
        ("time", {}),
        ("allowlist", {10: 1, 11: bytes(31), 12: 1, 13: NOW}),
        ("allowlist", {10: 1, 11: bytes(32), 12: 0, 13: NOW}),
        ("allowlist", {10: 1, 11: bytes(32), 12: 65536, 13: NOW}),
    ):
        signer = ROOT if kind == "trust" else ISSUER
        content_type = cose.parse(made(kind, 1))[0]
        code = await refusal(s, kind, signer.seal(content_type, payload(9, body)))
        assert code == (errors.CONFIG if kind == "config" else errors.OBJECT_FORM), (kind, body)
    for head in ({1: 0}, {1: 2**32}, {1: "1"}, {2: ""}, {2: b"site-1"}, {4: -1}, {5: 1}, {3: 7}):
        body = payload(9, {10: {}})
        body.update(head)
        code = await refusal(s, "config", ISSUER.seal(cose.CONFIGURATION, body))
        assert code == errors.OBJECT_FORM, head
    assert s.ledger.records == [(8, [65001, 1])]


async def test_commands_expire_and_run_once():
    s = await Station().start()
    ran = []

    async def on_command(number, arguments):
        assert s.ledger.counter(8) == 1 + len(ran)  # durable before it runs
        ran.append(number)

    s.objects.on_command = on_command
    await s.objects.accept("command", command(1, commands.STOP, [1]))
    await s.objects.accept("command", command(1, commands.REBOOT, []))
    assert await refusal(s, "command", command(2, 3, [], exp=NOW)) == errors.COMMAND_EXPIRED
    await s.objects.accept("command", command(2, commands.SET_LIMIT, [1, 3700]))
    await s.boot()
    s.objects.on_command = on_command
    assert await refusal(s, "command", command(1, commands.STOP, [1])) == errors.VERSION_ROLLBACK
    assert ran == [commands.STOP, commands.SET_LIMIT]


async def test_time_goes_back_for_nobody():
    s = await Station().start()
    await s.objects.accept("time", time_statement(1, NOW + 5000))
    assert await refusal(s, "time", time_statement(2, NOW)) == errors.TIME_STEP_BACK
    assert await refusal(s, "time", time_statement(2, NOW)) == errors.TIME_STEP_BACK
    assert s.timebase.now() == NOW + 5000 and s.ledger.counters[9] == 1
    assert s.ledger.records[-1] == (9, [errors.TIME_STEP_BACK, 1, "5000 s"])
    assert s.ledger.records[-2] == (8, [65008, 1])
    s.clock_set = False
    await s.boot()
    assert s.timebase.now() == NOW + 5000 and s.timebase.quality == 2
    assert await refusal(s, "time", time_statement(2, NOW)) == errors.TIME_STEP_BACK


async def test_a_lying_clock_does_not_lock_out_the_signed_one():
    s = await Station().start()
    s.timebase.hint(NOW + 5000 * DAY)  # beyond every issuer's validity
    assert await refusal(s, "config", made("config", 1)) == errors.COSE_ISSUER_EXPIRED
    await s.objects.accept("time", time_statement(1, NOW + 60))
    await s.objects.accept("config", made("config", 1))


async def test_acknowledgements():
    s = await Station().start()

    def ack(body, **kw):
        return signed(cose.ACKNOWLEDGEMENT, 1, body, **kw)

    body = {10: b"l" * 16, 11: 77, 12: b"c" * 8}
    got = await s.objects.open_acknowledgement(ack(body, station="cp-1"))
    assert got == (b"l" * 16, 77, b"c" * 8)
    for data, code in (
        (ack(body), errors.OBJECT_FORM),  # without a station
        (ack(body, station="cp-2"), errors.OBJECT_SITE),
        (made("config", 1), errors.COSE_CONTENT_TYPE),
        (ack({10: b"", 11: 77, 12: b"c" * 8}, station="cp-1"), errors.OBJECT_FORM),
    ):
        try:
            await s.objects.open_acknowledgement(data)
        except ChargekeepError as e:
            assert e.code == code, e
        else:
            raise AssertionError("accepted")


class Cut(BaseException):
    pass


class CutStore:
    """A store (and a ledger, below) whose power goes out before or after the n-th write."""

    def __init__(self, store, power):
        self._store = store
        self._power = power

    def read(self, name):
        return self._store.read(name)

    def path(self, name):
        return self._store.path(name)

    def write(self, name, data):
        self._power()
        self._store.write(name, data)
        self._power()

    def remove(self, name):
        self._power()
        self._store.remove(name)


class CutLedger(RamLedger):
    def __init__(self, ledger, power):
        self.counters, self.records, self._power = ledger.counters, ledger.records, power

    def advance(self, index, value):
        self._power()
        RamLedger.advance(self, index, value)
        self._power()


def power(cut_at):
    steps = [0]

    def step():
        steps[0] += 1
        if steps[0] > cut_at:
            raise Cut

    return step


def pausing(step):
    async def pause():
        step()

    return pause


async def cut_everywhere(kind, prepare, act, state, old, new):
    """`act` with the power cut at every step: after a boot there is `old` or `new`, never back."""
    cut = 0
    seen = []
    while True:
        s = None
        gc.collect()
        s = await Station().start()
        await prepare(s)
        assert state(s) == old, state(s)
        step = power(cut)
        s.objects.store = s.objects.allowlist._store = CutStore(s.store, step)
        s.objects.allowlist._pause = pausing(step)
        s.objects.ledger = CutLedger(s.ledger, step)
        done = True
        try:
            await act(s)
        except Cut:
            done = False
        await s.boot()
        after = state(s)
        assert after in ((new,) if done else (old, new)), (cut, after)
        seen.append(after)
        await s.boot()
        assert state(s) == after, (cut, "flaps")
        assert not s.health.errors, s.health.errors
        await act(s)
        assert state(s) == new
        if done:
            break
        cut += 1
    assert seen == sorted(seen, key=lambda x: x == new), seen  # new once, new for ever
    print("%s: %d power cuts" % (kind, cut))


async def test_power_cuts_in_a_version_update():
    async def prepare(s):
        await s.objects.accept("config", made("config", 1))

    async def act(s):
        await s.objects.accept("config", made("config", 2))

    await cut_everywhere("config", prepare, act, lambda s: s.objects.config.max_wh, 101, 102)


async def test_power_cuts_in_a_trust_rotation():
    async def prepare(s):
        await s.objects.accept("config", made("config", 1))

    async def act(s):
        rows = ((ISSUER, 255, 0, NOW + DAY), (OTHER, 255, 0, NOW + DAY))
        await s.objects.accept("trust", trust_list(2, rows))

    await cut_everywhere("trust", prepare, act, lambda s: s.objects.trust.version, 1, 2)


async def test_power_cuts_in_a_list_switch():
    await Station().start()  # takes what stays before the pages do
    entries = [(hashed("id%d" % i), 0, 0) for i in range(15)]
    header, pages = allowlist(2, entries, fanout=4)
    first = allowlist(1, ONE)

    async def prepare(s):
        await s.load_list(*first)

    async def act(s):
        await s.load_list(header, pages)

    def state(s):
        look_up = s.objects.allowlist.look_up
        return (
            s.objects.allowlist.header.version,
            bool(look_up(hashed("one"))),
            sum(1 for e in entries if look_up(e[0])),
        )

    await cut_everywhere("allowlist", prepare, act, state, (1, True, 0), (2, False, 15))
