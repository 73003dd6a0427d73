# Changes valid signatures, messages and keys and expects False: ed25519_mutate.py SEED COUNT. See
# test_ed25519_mutations.py.

import random
import sys

from chargekeep.credential import ed25519

L = 2**252 + 27742317777372353535851937790883648493


def flip(data, bits=1):
    data = bytearray(data)
    for _ in range(bits):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def noise(n):
    return bytes([random.getrandbits(8) for _ in range(n)])


def mutate(message, signature, other):
    kind = random.randrange(10)
    if kind < 3:
        return message, flip(signature[:32]) + signature[32:]
    if kind < 5:  # S, most often kept below L
        return message, signature[:32] + flip(signature[32:63]) + signature[63:]
    if kind == 5:
        return flip(message), signature
    if kind == 6:
        return message + noise(1), signature
    if kind == 7:
        return message, flip(signature, 2 + random.randrange(20))
    if kind == 8:  # parts of two signatures
        return message, other[:32] + signature[32:]
    s = int.from_bytes(signature[32:], "little")
    s = (s + (1 << random.randrange(252))) % L
    return message, signature[:32] + s.to_bytes(32, "little")


def main(seed, count):
    random.seed(seed)
    accepted = done = 0
    while done < count:
        private = noise(32)
        key = ed25519.public_key(private)
        message = noise(40)
        signature = ed25519.sign(private, message)
        other = ed25519.sign(private, message + b"?")
        assert ed25519.verify(key, message, signature)
        for _ in range(min(250, count - done)):
            changed = mutate(message, signature, other)
            if changed != (message, signature):  # an even number of flips of one bit
                accepted += ed25519.verify(key, *changed)
                done += 1
        if done < count:
            accepted += ed25519.verify(flip(key), message, signature)
            done += 1
    print("%d mutations, %d accepted" % (done, accepted))
    sys.exit(1 if accepted else 0)


main(int(sys.argv[1]), int(sys.argv[2]))
