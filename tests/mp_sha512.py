# SHA-512 against FIPS 180-4's examples and, on CPython, against hashlib.
# also: cpython

from binascii import hexlify

from mptest import SkipTest

from chargekeep.credential.sha512 import Sha512, sha512


def test_examples():
    # NIST, "Examples with Intermediate Values": one block and two blocks.
    assert hexlify(sha512(b"abc")) == (
        b"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        b"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    )
    message = b"".join([bytes(range(c, c + 8)) for c in range(ord("a"), ord("o"))])
    assert hexlify(sha512(message)) == (
        b"8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
        b"501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909"
    )


def test_streaming_equals_one_shot():
    message = bytes([i * 7 & 255 for i in range(700)])
    whole = sha512(message)
    for step in (1, 3, 64, 111, 127, 128, 129, 300):
        hash = Sha512()
        for i in range(0, len(message), step):
            hash.update(message[i : i + step])
        assert hash.digest() == whole, step


def test_lengths_against_hashlib():
    import hashlib

    if not hasattr(hashlib, "sha512"):
        raise SkipTest("hashlib has no sha512 here")
    for n in range(300):
        message = bytes([i * 31 + n & 255 for i in range(n)])
        assert sha512(message) == hashlib.sha512(message).digest(), n
