# Runs on a MicroPython VM or a board: prints "name microseconds" lines and the heap that Ed25519
# takes. `rfc8032_plain` is beside this file, or in the board's path.

import gc
import sys
import time

gc.collect()
before = gc.mem_alloc()
from chargekeep.credential import ed25519  # noqa: E402

SEED = bytes(range(32))
MESSAGE = bytes(130)  # an entitlement


def best(function, *args, times=5):
    shortest = 1 << 30
    for _ in range(times):
        gc.collect()
        start = time.ticks_us()
        result = function(*args)
        shortest = min(shortest, time.ticks_diff(time.ticks_us(), start))
    return result, shortest


def peak(function, *args):
    # The heap in use after a run without a collection: what lives, and all garbage.
    gc.collect()
    gc.disable()
    function(*args)
    used = gc.mem_alloc() - before
    gc.enable()
    return used


key, us = best(ed25519.public_key, SEED, times=1)
print("first", us)
signature = ed25519.sign(SEED, MESSAGE)
print("sign", best(ed25519.sign, SEED, MESSAGE)[1])
valid, us = best(ed25519.verify, key, MESSAGE, signature)
assert valid
print("verify", us)
if sys.platform == "rp2":  # with the portable field the garbage would fill the heap
    print("heap_peak", peak(ed25519.verify, key, MESSAGE, signature))
gc.collect()
print("heap_resident", gc.mem_alloc() - before)
longest = 0
for fresh in (False, True):
    if fresh:
        ed25519._recent.public_key = None
    gc.collect()
    steps = ed25519._verify(key, MESSAGE, signature)
    start = time.ticks_us()
    for _step in steps:
        longest = max(longest, time.ticks_diff(time.ticks_us(), start))
        start = time.ticks_us()
print("longest_step", longest)
ed25519._recent.public_key = None
print("verify_new_key", best(ed25519.verify, key, MESSAGE, signature, times=1)[1])

import rfc8032_plain  # noqa: E402

valid, us = best(rfc8032_plain.verify, key, MESSAGE, signature, times=3)
assert valid
assert not rfc8032_plain.verify(key, MESSAGE + b"?", signature)
print("rfc8032", us)
