# What the fuzzers call: one function a parser, on CPython under atheris and, with the corpus, on
# the MicroPython VM. A target returns quietly for any input: only ChargekeepError is a refusal,
# and what would be an acceptance without a signature raises Accepted.

import asyncio
import hashlib
import io

from chargekeep import cbor, config
from chargekeep.authorization import allowlist, command, delta, revocation, tariff, trust
from chargekeep.authorization.entitlement import Entitlement
from chargekeep.authorization.loader import Prover
from chargekeep.credential import cose, token
from chargekeep.errors import ChargekeepError
from chargekeep.health import Health
from chargekeep.reader import LineReader
from chargekeep.update import manifest

NOW = 1_800_000_000
SITE = "site-1"
ISSUER = bytes.fromhex("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394")
TOKEN = bytes.fromhex(
    "d2844da301270319fdea04446a3803d5a05843a701626f70026f44452d4142432d4331323334352d58036673"
    "6974652d31041a6b4b2380051a6b488080074800000000000000013a0001000087194e200000000000015840"
    "76ef1a3b2eeff7a9d16682cdc39babb6cced8696855f63f518bed715da85bc5bac2e3b67999bee5c7b4ca251"
    "6f2a9becc732cecea36bf5aa2bee74e85a8f6100"
)  # the one token that may be accepted; both are of authority.py


class Accepted(Exception):
    pass


class _Clock:
    certain = True

    def now(self):
        return NOW


def fuzz_cbor(data):
    value = cbor.loads(data)
    if cbor.dumps(value) != data:
        raise Accepted("a second spelling of %r" % (value,))


def fuzz_cose(data):
    content_type, kid, _, payload, signature = cose.parse(data)
    if cose.seal_sign1(content_type, kid, payload, lambda message: signature) != data:
        raise Accepted("a second spelling of a message")
    cose.open_sign1(data, cose.ENTITLEMENT, lambda kid, content_type: ISSUER)
    if data != TOKEN:
        raise Accepted("a forged message")


def fuzz_entitlement(data):
    claims = Entitlement(data)
    limits = (claims.max_wh, claims.max_s, claims.max_w, claims.use_count, claims.window)
    if not 0 <= min(limits) <= max(limits) < 1 << 32 or not claims.nbf < claims.exp < 1 << 32:
        raise Accepted("limits %r" % (limits,))
    if not 0 < len(claims.id_token) <= 36 or len(claims.cti) != 8:
        raise Accepted("names")
    claims.check_place(SITE, "cp-1", 1, 1)
    claims.check_time(_Clock(), config.Config())
    if not claims.nbf <= NOW < claims.exp or claims.aud not in (SITE, SITE + "/cp-1"):
        raise Accepted("out of time or place")


_OBJECTS = (
    trust.TrustList,
    allowlist.Header,
    revocation.RevocationList,
    tariff.Tariff,
    command.Command,
)


def fuzz_object(data):
    """The first byte chooses the class."""
    if data:
        made = _OBJECTS[data[0] % len(_OBJECTS)](data[1:])
        if not 1 <= made.version < 1 << 32 or not made.site:
            raise Accepted("version or site")
        if isinstance(made, revocation.RevocationList):
            revoked = revocation.Revocations(made)
            revoked.revoked(bytes(8), bytes(16))


def fuzz_config(data):
    settings = cbor.loads(data)
    made = config.Config(settings)
    for number, name, _, low, high in config.rows():
        value = getattr(made, name)
        if type(value) is int and not low <= value <= high:
            raise Accepted("setting %d" % number)


class _Header:
    pass


def fuzz_snapshot(data):
    """Pages whose hashes the harness makes right, so that only their shape can be wrong."""
    pages = [bytearray(data[i : i + 512]) for i in range(0, min(len(data), 16 * 512), 512)]
    if not pages:
        return
    pages[-1].extend(bytes(512 - len(pages[-1])))
    for page in reversed(pages):
        first = page[2] << 8 | page[3]
        for i in range(min(page[1], 24) if page[0] else 0):
            if first + i < len(pages):
                at = 8 + 21 * i
                child = pages[first + i]
                page[at : at + 21] = child[8:13] + hashlib.sha256(child).digest()[:16]
    _prove(pages)


def _prove(pages):
    header = _Header()
    header.root = hashlib.sha256(pages[0]).digest()
    header.pages = len(pages)
    leaves = [page for page in pages if not page[0]]
    header.count = sum(page[1] for page in leaves)
    prover = Prover(header, lambda number: pages[number])
    for page in pages:
        prover.take(bytes(page))
    # A list that was proven is left by every look-up, and holds what its leaves hold
    listed = allowlist.Allowlist(None, None)
    listed.header = header
    for page in leaves:
        for i in range(page[1]):
            listed.pages_read = 0
            listed._descend(_Pages(pages), bytes(page[8 + 21 * i : 24 + 21 * i]))
            if listed.pages_read > 4:
                raise Accepted("deep")
    listed._descend(_Pages(pages), bytes(16))
    listed._descend(_Pages(pages), b"\xff" * 16)


class _Pages:
    def __init__(self, pages):
        self.pages = pages
        self.at = 0

    def seek(self, at):
        self.at = at // 512

    def readinto(self, buffer):
        buffer[:] = self.pages[self.at]
        return 512

    def read(self, n):
        return self.pages[self.at] if self.at < len(self.pages) else b""


def _base():
    # Five leaves of three entries below a root
    leaves = []
    for i in range(5):
        items = b"".join(bytes((40 * i + j,)) * 16 + bytes(5) for j in range(3))
        leaves.append(bytes((0, 3)) + bytes(6) + items + bytes(512 - 8 - 63))
    items = b"".join(leaf[8:13] + hashlib.sha256(leaf).digest()[:16] for leaf in leaves)
    return [bytes((1, 5, 0, 1)) + bytes(4) + items + bytes(512 - 8 - 105)] + leaves


async def _pause():
    pass


def _now(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as e:
        return e.value
    raise Accepted("waits")


def fuzz_delta(data):
    """Pages that a delta makes, under a header that says what they are."""
    build = delta._Build(data, _Pages(_base()), _pause)
    pages = []
    for level in range(len(build.first) - 1, -1, -1):
        build.rewind()
        while True:
            page = _now(build.next(level))
            if page is None:
                break
            if len(page) != 512 or page[0] != level or not 0 < page[1] <= 24:
                raise Accepted("page %d" % len(pages))
            pages.append(page)
    if len(pages) != build.first[0] + sum(1 for page in pages if not page[0]):
        raise Accepted("leaves")
    _prove(pages)


def fuzz_manifest(data):
    """The first byte chooses: the signed part, or the list of files that it vouches for."""
    if not data:
        return
    if data[0] & 1:
        listed = manifest.Manifest(data[1:])
        if not 0 < listed.size <= 20480 or len(listed.digest) != 32:
            raise Accepted("list")
        return
    manifest.open = lambda name, mode: io.BytesIO(data[1:])
    last = ""
    for path, size, _digest in manifest.files("list"):
        dots = [part for part in path.split("/") if not part.strip(".")]
        if path <= last or dots or not 0 <= size <= 65536:
            raise Accepted(path)
        last = path


def fuzz_text(data):
    text = "CK1:" + "".join(chr(byte) for byte in data)
    if token.to_text(token.from_text(text)) != text:
        raise Accepted("a second text of a token")


class _Uart:
    def __init__(self, data):
        self.data = data

    def any(self):
        if not self.data:
            raise EOFError
        return len(self.data)

    def read(self, n):
        got, self.data = self.data[:n], self.data[n:]
        return got


_station = None


def fuzz_presented(data):
    """Lines from the reader to the decision."""
    global _station
    try:
        if _station is None:
            from authority import Station  # takes more heap than the parsers have

            _station = asyncio.run(Station().start())
        asyncio.run(_present(data))
    except EOFError:
        pass


async def _present(data):
    reader = LineReader(_Uart(data), Health())
    while True:
        line = await reader.read()
        decision = await _station.policy.decide(line, 1)
        if decision.accepted and line != token.to_text(TOKEN):
            raise Accepted(line)


def run(name, data):
    """Target `name` on `data`: True if the input was taken for well-formed."""
    try:
        globals()["fuzz_" + name](data)
    except ChargekeepError:
        return False
    return True


NAMES = "cbor cose entitlement object config snapshot delta manifest text presented".split()
