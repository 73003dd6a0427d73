"""Writes the seeds of the corpus: well-formed inputs of every target, and near misses.

python tests/fuzz/seeds.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("firmware", "tests", "tests/shim", "tests/fuzz")]

import authority as a  # noqa: E402

from chargekeep import cbor  # noqa: E402
from chargekeep.credential import cose  # noqa: E402


def payload_of(data):
    return cose.parse(data)[3]


def seeds():
    token = a.entitlement()
    yield "cbor", cbor.dumps({1: [1, -1, "a", b"b", None, True, {2: []}], -5: 2**40})
    yield "cbor", bytes.fromhex("a201020103")
    yield "cbor", bytes.fromhex("9f01ff")
    yield "cose", token
    yield "cose", a.trust_list()
    yield "cose", token[:-1] + b"\xff"
    yield "entitlement", payload_of(token)
    window = [1, 2, 3, 1, 5, 6, 7, 127 | 24 << 12, 1]
    yield "entitlement", payload_of(a.entitlement(limits=window))
    objects = (
        a.trust_list(revoked=(a.ROOT,)),
        a.allowlist(1, [(a.hashed("a"), 0, 0)])[0],
        a.revocation(1, [b"12345678"], [a.hashed("a")]),
        a.tariff(1),
        a.command(1, 4, [1, 3700]),
    )
    for i, data in enumerate(objects):
        yield "object", bytes([i]) + payload_of(data)
    yield "config", cbor.dumps({1: True, 3: -60, 12: 5, 16: [[1, 2, 3, 4]]})
    yield "config", cbor.dumps({})
    entries = [(a.hashed(str(i)), 0, 0) for i in range(9)]
    yield "snapshot", b"".join(a.pages_of(entries, 3))
    yield "snapshot", b"".join(a.pages_of(entries[:2]))
    yield "snapshot", bytes(512)
    for data in ("0005", "00022001400120018000", "40014001", "6001" + "07" * 21 + "80000005"):
        yield "delta", bytes.fromhex(data)
    signed = {1: 10203, 2: "site-1", 4: 1, 10: "chargekeep", 11: "RP2", 12: 6, 14: "1.2.3"}
    yield "manifest", b"\1" + cbor.dumps(signed | {13: [99, bytes(32)]})
    lines = [b"%s %d %s\n" % (b"0a" * 32, n, path) for n, path in ((7, b"a.mpy"), (9, b"b/c"))]
    yield "manifest", b"\0" + b"".join(lines)
    yield "manifest", b"\0" + lines[1] + lines[0]
    yield "text", a.token_text()[4:].encode()
    yield "text", b"AA"
    yield "presented", a.token_text().encode() + b"\n"
    yield "presented", b"UID:04A1B2C3\r\nDE-1\nCK1:AAAA\n"


def main():
    count = {}
    for name, data in seeds():
        count[name] = count.get(name, 0) + 1
        folder = HERE / "corpus" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed{count[name]}").write_bytes(data)


if __name__ == "__main__":
    main()
