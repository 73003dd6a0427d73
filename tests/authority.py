# An operator for the tests of the authorization stage: keys and signed objects, made with the
# firmware's own codec (the independent maker is in tests/test_interop.py), a ledger in RAM and
# a station that has them all.

import gc

from mptest import folder

from chargekeep import cbor
from chargekeep.authorization.idtoken import id_hash
from chargekeep.authorization.objects import Objects
from chargekeep.authorization.policy import Policy
from chargekeep.authorization.spent import Spent
from chargekeep.authorization.trust import kid_of
from chargekeep.credential import cose, ed25519, token
from chargekeep.errors import COUNTER_DECREASE, ChargekeepError
from chargekeep.health import Health
from chargekeep.store import Store
from chargekeep.timebase import Timebase

if hasattr(gc, "threshold"):  # as app.py
    gc.collect()
    gc.threshold(gc.mem_free() // 4)

NOW = 1_800_000_000  # Friday 2027-01-15 08:00 UTC
DAY = 86400
SITE = "site-1"
STATION = "cp-1"
SITE_KEY = bytes(range(32))


class Signer:
    """A key pair made of one byte."""

    def __init__(self, seed_byte):
        self.seed = bytes((seed_byte,)) * 32
        self.public = ed25519.public_key(self.seed)
        self.kid = kid_of(self.public)

    def seal(self, content_type, payload):
        data = payload if type(payload) is bytes else cbor.dumps(payload)
        return cose.seal_sign1(content_type, self.kid, data, self._sign)

    def _sign(self, message):
        return ed25519.sign(self.seed, message)


ROOT = Signer(1)
ISSUER = Signer(2)


def payload(version, body, site=SITE, station=None, issued_at=NOW):
    made = {1: version, 2: site, 4: issued_at}
    made.update(body)
    if station is not None:
        made[3] = station
    return made


def trust_list(version=1, issuers=None, revoked=(), root=ROOT, **kw):
    """`issuers`: (signer, scope, nbf, exp), by default one that may sign all."""
    if issuers is None:
        issuers = ((ISSUER, 255, NOW - DAY, NOW + 1000 * DAY),)
    rows = [[s.kid, s.public, scope, nbf, exp] for s, scope, nbf, exp in issuers]
    body = {10: rows, 11: [s.kid for s in revoked]}
    return root.seal(cose.TRUST_LIST, payload(version, body, **kw))


def signed(content_type, version, body, signer=ISSUER, **kw):
    return signer.seal(content_type, payload(version, body, **kw))


def config(version, settings, **kw):
    return signed(cose.CONFIGURATION, version, {10: settings}, **kw)


def revocation(version, ctis=(), hashes=(), **kw):
    body = {10: sorted(ctis), 11: sorted(hashes)}
    return signed(cose.REVOCATION_LIST, version, body, **kw)


def tariff(version, tariff_id=1, **kw):
    body = {10: tariff_id, 11: "EUR", 12: 3900, 13: 0, 14: 5000}
    return signed(cose.TARIFF, version, body, **kw)


def command(version, number, arguments, exp=NOW + 600, **kw):
    return signed(cose.COMMAND, version, {10: number, 11: arguments, 12: exp}, **kw)


def time_statement(version, unix_s, **kw):
    return signed(cose.TIME_STATEMENT, version, {10: unix_s}, **kw)


def claims(**kw):
    """Claims of an entitlement; `limits` replaces the whole private claim."""
    limits = [
        kw.get("max_wh", 20000),
        kw.get("max_s", 0),
        kw.get("max_w", 0),
        kw.get("evse_id", 0),
        kw.get("tariff_id", 0),
        kw.get("tariff_version", 0),
        kw.get("use_count", 1),
    ]
    return {
        1: kw.get("iss", "op"),
        2: kw.get("sub", "DE-ABC-C12345-X"),
        3: kw.get("aud", SITE),
        4: kw.get("exp", NOW + DAY),
        5: kw.get("nbf", NOW - DAY),
        7: kw.get("cti", b"\0\0\0\0\0\0\0\1"),
        -65537: kw.get("limits", limits),
    }


def entitlement(signer=ISSUER, **kw):
    return signer.seal(cose.ENTITLEMENT, claims(**kw))


def token_text(signer=ISSUER, **kw):
    return token.to_text(entitlement(signer, **kw))


def hashed(id_token):
    return id_hash(SITE_KEY, id_token)


def pages_of(entries, fanout=24, leaf=0):
    """Pages of an allowlist of `(hash, policy, expiry)`, with at most `fanout` items each, or
    `leaf` in leaves."""
    import hashlib

    def page(level, items, first):
        head = bytes((level, len(items), first >> 8, first & 255)) + bytes(4)
        return head + b"".join(items) + bytes(512 - 8 - 21 * len(items))

    entries = sorted(entries)
    rows = [h + bytes((policy,)) + exp.to_bytes(4, "big") for h, policy, exp in entries]
    leaf = leaf or fanout
    level = [rows[i : i + leaf] for i in range(0, len(rows), leaf)] or [[]]
    shape = [level]  # leaves first, of each page its items (or its children)
    while len(shape[-1]) > 1:
        below = shape[-1]
        shape.append([below[i : i + fanout] for i in range(0, len(below), fanout)])
    counts = [len(level) for level in reversed(shape)]
    starts = [sum(counts[:i]) for i in range(len(counts))]  # of each level from the root
    out = []
    items_below = []
    for height, level in enumerate(shape):
        first = 0
        made = []
        items = []
        for group in level:
            content = group if not height else items_below[first : first + len(group)]
            start = starts[len(shape) - height] + first if height else 0
            data = page(height, content, start)
            made.append(data)
            items.append(content[0][:5] + hashlib.sha256(data).digest()[:16] if content else b"")
            first += len(group)
        out = made + out
        items_below = items
    return out


def allowlist(version, entries, exp=NOW + 30 * DAY, fanout=24, leaf=0, bases=(), **kw):
    """`(header, pages)`."""
    import hashlib

    pages = pages_of(entries, fanout, leaf)
    root = hashlib.sha256(pages[0]).digest()
    body = {10: len(entries), 11: root, 12: len(pages), 13: exp}
    if bases:
        body[14] = list(bases)
    return signed(cose.ALLOWLIST, version, body, **kw), pages


def delta(entries, index, leaf):
    """From the list of `entries` to the one without the `index`th of them in order."""

    def say(kind, n=0):
        return bytes((kind << 5 | n >> 8, n & 255))

    before = index // leaf
    data = say(0, before) if before else b""
    left = len(entries) - before * leaf - 1
    at = index % leaf
    while left > 0:
        size = min(leaf, left)
        data += (say(1, at) if at > 0 else b"") + (say(2, 1) if at >= 0 else b"")
        data += (say(1, size - max(at, 0)) if size > at else b"") + say(4)
        at = -1
        left -= size
    return data


_chunk = bytearray(4 * 512)  # at import, when memory is whole


class chunks:
    """`pages` by four, each put together when it is asked for, and until the next one is."""

    def __init__(self, pages):
        self.pages = pages

    def __len__(self):
        return (len(self.pages) + 3) // 4

    def __getitem__(self, n):
        if n >= len(self):
            raise IndexError
        size = 0
        for page in self.pages[4 * n : 4 * n + 4]:
            _chunk[size : size + 512] = page
            size += 512
        return memoryview(_chunk)[:size]


class RamLedger:
    """Counters and records as the ledger keeps them, in RAM."""

    def __init__(self):
        self.counters = [0] * 12
        self.records = []

    def counter(self, index):
        return self.counters[index]

    def advance(self, index, value):
        if value < self.counters[index]:
            raise ChargekeepError(COUNTER_DECREASE)
        self.counters[index] = value

    def append(self, record_type, body):
        self.records.append((record_type, body))
        return len(self.records)


class Clock:
    """Ticks in ms that tests move."""

    def __init__(self):
        self.ms = 0

    def ticks_ms(self):
        return self.ms

    def diff(self, a, b):
        return a - b

    def sleep(self, seconds):
        self.ms += int(seconds * 1000)


class Started:
    """What a transaction has of its Started record."""

    def __init__(self, decision, tx_id):
        self.id = tx_id
        self.id_hash, self.cti, self.exp = decision.id_hash, decision.cti, decision.exp


class Station:
    """A station; `boot` keeps store and ledger, loses all else, and sets the clock to NOW (unless
    `clock_set` is false)."""

    def __init__(self, store=None, ledger=None, clock_set=True):
        self.root = folder() if store is None else None
        self.store = store or Store(self.root)
        self.ledger = ledger or RamLedger()
        self.clock_set = clock_set

    async def boot(self, now=NOW):
        gc.collect()
        self.clock = Clock()
        self.timebase = Timebase(0, self.clock.ticks_ms, self.clock.diff)
        self.timebase.start(1, self.ledger.counter(2))
        if self.clock_set:
            self.timebase.hint(now)
        self.health = Health()
        self.objects = Objects(
            SITE, STATION, ROOT.public, self.store, self.ledger, self.timebase, self.health
        )
        await self.objects.load()
        self.spent = Spent(self.store, self.timebase)
        self.policy = Policy(self.objects, self.spent, self.timebase, SITE_KEY)
        return self

    async def start(self):
        """Boot and take a trust list."""
        await self.boot()
        await self.objects.accept("trust", trust_list())
        return self

    async def load_list(self, header, pages, delta=None):
        await self.objects.accept("allowlist", header)
        while True:
            wanted = self.objects.wanted()
            if not wanted:
                return
            data = delta if wanted[1] < 0 else chunks(pages)[wanted[1]]
            await self.objects.accept_chunk(wanted[0], wanted[1], data)

    def begin(self, decision, evse_id, tx_id):
        """As the transaction machine does, the Started record in between."""
        self.policy.begin(decision, evse_id)
        self.policy.started(Started(decision, tx_id), evse_id)

    async def refused(self, presented, evse_id=1, connector_id=1):
        """Code of the refusal of `presented`."""
        decision = await self.policy.decide(presented, evse_id, connector_id)
        assert not decision.accepted and decision.code, (decision.accepted, decision.code)
        return decision.code

    async def accepted(self, presented, evse_id=1, connector_id=1):
        decision = await self.policy.decide(presented, evse_id, connector_id)
        assert decision.accepted and not decision.code, decision.code
        return decision
