# The test vectors of RFC 8032 section 7.1 and the strict rules of verification.
# also: cpython

import hashlib
from binascii import unhexlify

from mptest import raises

from chargekeep import borrow
from chargekeep.credential import comb, ed25519, tables
from chargekeep.errors import KEY_WEAK, ChargekeepError

L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19

# RFC 8032 section 7.1: tests 1, 2, 3 and SHA(abc): private key, public key, message, signature.
RFC_8032 = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555f"
        "b8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da08"
        "5ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18"
        "ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a21"
        "92992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909"
        "351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
)


def vectors():
    for row in RFC_8032:
        yield [unhexlify(field) for field in row]


def valid():
    return next(vectors())[1:]


def test_rfc_8032_sign():
    for seed, public_key, message, signature in vectors():
        assert ed25519.public_key(seed) == public_key
        assert ed25519.sign(seed, message) == signature


def test_rfc_8032_verify():
    for _, public_key, message, signature in vectors():
        assert ed25519.verify(public_key, message, signature)
        prepared = ed25519.prepare(public_key)
        assert ed25519.verify(prepared, message, signature)
        assert ed25519.verify(prepared, bytearray(message), memoryview(signature))
        assert not ed25519.verify(prepared, message + b"\x00", signature)


async def test_verify_async_yields():
    import asyncio

    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    public_key, message, signature = valid()
    assert await ed25519.verify_async(public_key, message, signature)
    assert turns > 15  # a new key
    turns = 0
    assert await ed25519.verify_async(public_key, message, signature)
    assert turns > 4
    assert not await ed25519.verify_async(public_key, message + b"?", signature)
    task.cancel()


async def test_two_keys_at_once():
    # The buffer of the last key is in use while another key comes: neither may see the other's.
    import asyncio

    rows = [row[1:] for row in vectors()]
    jobs = [ed25519.verify_async(*row) for row in rows + rows]
    wrong = [ed25519.verify_async(row[0], row[1] + b"?", row[2]) for row in rows]
    waiting = asyncio.create_task(ed25519.verify_async(*rows[3]))
    await asyncio.sleep(0)
    assert ed25519.verify(*rows[2])  # cannot wait: takes a buffer of its own
    assert await asyncio.gather(*jobs, *wrong) == [True] * 8 + [False] * 4
    assert await waiting
    assert ed25519.verify(*rows[0])
    assert ed25519._recent.users == 0


async def test_cancelled_verification_gives_its_buffer_back():
    import asyncio

    rows = [row[1:] for row in vectors()]
    for turns in (1, 8, 20):
        task = asyncio.create_task(ed25519.verify_async(*rows[turns % 4]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        assert ed25519._recent.users == 0
        for row in rows:
            assert ed25519.verify(*row)
            assert ed25519._recent.public_key == row[0]


async def test_sign_async():
    seed, _, message, signature = list(vectors())[2]
    assert await ed25519.sign_async(seed, message) == signature
    assert await ed25519.sign_async(ed25519.SigningKey(seed), message) == signature


BASE = ed25519.table_name(ed25519.MINUS_B)


class Files:
    """A `SealedStore` that counts writes."""

    def __init__(self):
        import os

        self.root = "/tmp/chargekeep-comb-%d" % id(self)
        os.mkdir(self.root)
        self.written = 0

    def path(self, name):
        return self.root + "/" + name

    def tag(self, name, data):
        return hashlib.sha256(b"secret" + name.encode() + data).digest()[:16]

    def write(self, name, data):
        self.written += 1
        with open(self.path(name), "wb") as f:
            f.write(data)

    def names(self):
        import os

        return sorted(os.listdir(self.root))

    def close(self):
        import os

        for name in self.names():
            os.remove(self.path(name))
        os.rmdir(self.root)


def test_tables_are_kept():
    files = Files()
    made = []
    negative_table = comb.negative_table

    def counted(public_key, table):
        made.append(public_key)
        return negative_table(public_key, table)

    comb.negative_table = counted
    ed25519.borrow = lambda name: comb
    try:
        ed25519.keep_tables(files)
        rows = [row[1:] for row in vectors()]
        ed25519.prepare(rows[0][0])
        assert files.written == 2 and len(made) == 2  # the base point's and the key's
        prepared = ed25519.prepare(rows[0][0])
        assert ed25519.verify(prepared, *rows[0][1:])
        ed25519.keep_tables(files)
        assert files.written == 2 and len(made) == 2
        # A key that nobody prepared is not written, whoever asks for it.
        assert ed25519.verify(*rows[1])
        assert files.written == 2 and len(made) == 3
        # Back to the first: from its file.
        assert ed25519.verify(*rows[0])
        assert len(made) == 3
        # Damage anywhere is found, and the table made anew.
        (name,) = [files.path(n) for n in files.names() if n != BASE]
        with open(name, "rb") as f:
            whole = f.read()
        assert len(whole) == 3072 + 16
        for damaged in (flipped(whole, 0), flipped(whole, 3071), flipped(whole, 3078), whole[:-1]):
            with open(name, "wb") as f:
                f.write(damaged)
            count = len(made)
            ed25519._recent.public_key = None
            assert ed25519.verify(*rows[0])
            assert len(made) == count + 1
        # Another key's table under this name is intact, but not this key's.
        with open(name, "wb") as f:
            f.write(whole)
        other = ed25519.PreparedKey()
        ed25519._run(ed25519._prepare(other, rows[2][0]))
        other.buffer[3072:] = ed25519._tag(rows[2][0], other.table)
        with open(name, "wb") as f:
            f.write(other.buffer)
        ed25519._recent.public_key = None
        assert ed25519.verify(*rows[0])
        ed25519.prepare(rows[0][0])
        with open(name, "rb") as f:
            assert f.read() == whole
    finally:
        ed25519._store = None
        comb.negative_table = negative_table
        ed25519.borrow = borrow
        files.close()


async def test_the_tables_of_all_keys_in_use_are_kept():
    files = Files()
    files.remove = lambda name: __import__("os").remove(files.path(name))
    rows = [row[1:] for row in vectors()]
    keys = [row[0] for row in rows]
    try:
        ed25519.keep_tables(files)
        for used in (keys[:2], keys[1:3], keys[:1] * 9, []):
            await tables.keep(files, used)
            assert files.names() == sorted({BASE} | {ed25519.table_name(key) for key in used})
            count = files.written
            await tables.keep(files, used)  # they are there
            assert files.written == count
        await tables.keep(files, keys[:1])

        def made(*_):
            raise AssertionError("made anew")

        negative_table, comb.negative_table = comb.negative_table, made
        ed25519._recent.public_key = None
        assert ed25519.verify(*rows[0])
        comb.negative_table = negative_table
        for error in (MemoryError, OSError):

            def write(name, data, error=error):
                raise error

            files.write = write
            await tables.keep(files, keys[:2])
            assert ed25519.verify(*rows[1])
    finally:
        ed25519._store = None
        files.close()


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def test_wrong_length_is_refused():
    public_key, message, signature = valid()
    for n in (0, 1, 32, 63):
        assert not ed25519.verify(public_key, message, signature[:n])
    assert not ed25519.verify(public_key, message, signature + b"\x00")
    assert not ed25519.verify(public_key[:31], message, signature)
    assert not ed25519.verify(public_key + b"\x00", message, signature)
    assert not ed25519.verify(b"", message, signature)


def test_malleable_s_is_refused():
    public_key, message, signature = valid()
    s = int.from_bytes(signature[32:], "little")
    for multiple in range(1, 16):
        other = signature[:32] + (s + multiple * L).to_bytes(32, "little")
        assert not ed25519.verify(public_key, message, other)


def test_weak_keys_are_refused():
    # One encoding of each order: 1, 2, 4, 8; the others are in test_ed25519_edges.py.
    eight = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    for y in (1, P - 1, 0, int.from_bytes(unhexlify(eight), "little")):
        raises(ChargekeepError, ed25519.prepare, y.to_bytes(32, "little"), code=KEY_WEAK)


def test_malformed_keys_are_refused():
    for y in (P, P + 1, 2**255 - 1, 2, 1 | 1 << 255):  # 2: no point; last: x = 0 with its sign set
        raises(ChargekeepError, ed25519.prepare, y.to_bytes(32, "little"), code=KEY_WEAK)
    raises(ChargekeepError, ed25519.prepare, b"", code=KEY_WEAK)
