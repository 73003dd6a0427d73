# Runs on the MicroPython VM: vm_authorization.py FOLDER. FOLDER has what bench_authorization.py
# made: pages, header, hashes (of 200 entries), tokens as signed files. Prints "name value" lines.

import asyncio
import gc
import sys
import time

from authority import Station, hashed

from chargekeep.authorization import allowlist

PAGE = allowlist.PAGE


def read(name):
    with open(sys.argv[1] + "/" + name, "rb") as f:
        return f.read()


def alive():
    gc.collect()
    return gc.mem_alloc()


async def watched(sometimes, steps):
    """Await `steps()`; the most heap that was alive beyond what it was before, as seen at the
    pages for which `sometimes(number)` says so."""
    from chargekeep.authorization import loader  # as it is now: lists come with their own

    peak = 0
    take = loader.Prover.take
    before = alive()

    def measured(prover, page):
        nonlocal peak
        take(prover, page)
        if sometimes(prover.taken):
            peak = max(peak, alive() - before)

    loader.Prover.take = measured
    await steps()
    loader.Prover.take = take
    return peak


async def load(s, path):
    """The list from chunks."""
    await s.objects.accept("allowlist", read("header"))

    async def chunks():
        with open(path, "rb") as f:
            while s.objects.wanted():
                version, n = s.objects.wanted()
                await s.objects.accept_chunk(version, n, f.read(4 * PAGE))

    return await watched(lambda page: page % 64 < 4 or page > 420, chunks)


async def change(s):
    """The list with one card exchanged, from the delta."""
    await s.objects.accept("allowlist", read("header2"))
    if s.objects.wanted() != (2, -1):
        raise SystemExit("no delta")
    import chargekeep.authorization.delta  # noqa: F401  (data is measured, not code)

    return await watched(lambda page: True, lambda: s.objects.accept_chunk(2, -1, read("delta")))


def linear(path, wanted):
    """What a list without order costs: read on until it is there."""
    buffer = bytearray(PAGE)
    with open(path, "rb") as f:
        while f.readinto(buffer) == PAGE:
            if not buffer[0]:
                for at in range(8, 8 + 21 * buffer[1], 21):
                    if buffer[at : at + 16] == wanted:
                        return True
    return False


async def main():
    path = sys.argv[1] + "/pages"
    s = await Station().start()
    print("allowlist_load_heap_peak", await load(s, path))
    print("allowlist_delta_heap_peak", await change(s))
    path = s.objects.allowlist._path(s.objects.allowlist._slot)
    listed = s.objects.allowlist
    hashes = read("hashes")
    hashes = [hashes[i : i + 16] for i in range(0, len(hashes), 16)]
    worst = 0
    started = time.ticks_us()
    for wanted in hashes:
        listed.pages_read = 0
        if listed.look_up(wanted) is None:
            raise SystemExit("an entry was not found")
        worst = max(worst, listed.pages_read)
    look_up_us = time.ticks_diff(time.ticks_us(), started) / len(hashes)
    started = time.ticks_us()
    for wanted in hashes[:20]:
        linear(path, wanted)
    linear_us = time.ticks_diff(time.ticks_us(), started) / 20
    for i in range(200):
        if listed.look_up(hashed("stranger %d" % i)) is not None:
            raise SystemExit("a stranger was found")
    print("allowlist_lookup_pages", worst)
    print("allowlist_lookup_us", look_up_us)
    print("allowlist_lookup_vs_linear_ratio", linear_us / look_up_us)

    tokens = [read("token%d" % i) for i in range(20)]
    await s.accepted(tokens[0])  # the issuer's comb table
    cold = []
    for token in tokens[1:]:
        gc.collect()
        started = time.ticks_us()
        await s.accepted(token)
        cold.append(time.ticks_diff(time.ticks_us(), started))
    started = time.ticks_us()
    for _ in range(100):
        await s.accepted(tokens[-1])
    cached_us = time.ticks_diff(time.ticks_us(), started) / 100
    print("authorize_cold_us", sorted(cold)[len(cold) // 2])
    print("authorize_cached_us", cached_us)
    print("entitlement_bytes", max(len(token) for token in tokens))


asyncio.run(main())
