# Checks lines of test vectors on any interpreter: ed25519_lines.py FILE. See
# test_ed25519_vectors.py.

import sys
from binascii import unhexlify

from chargekeep.credential import ed25519


def check(line):
    kind, *fields = line.rstrip("\n").split(" ")
    if kind == "verify":
        key, message, signature = [unhexlify(field) for field in fields[:3]]
        return ed25519.verify(key, message, signature) == bool(int(fields[3]))
    seed, key, message, signature = [unhexlify(field) for field in fields]
    return (
        ed25519.public_key(seed) == key
        and ed25519.sign(seed, message) == signature
        and ed25519.verify(key, message, signature)
    )


passed = failed = 0
with open(sys.argv[1]) as lines:
    for line in lines:
        if check(line):
            passed += 1
        else:
            failed += 1
            print("failed:", line)
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
