"""Lets firmware modules run on CPython.

Stands in for `micropython`, and adds what MicroPython's `time` and `asyncio` have more.
"""

import asyncio
import time

_PERIOD = 1 << 30  # of the tick counters, as on 32-bit ports


def const(value):
    return value


def native(function):
    return function


viper = native


def mem_info(verbose=0):
    pass


def _ticks_diff(end, start):
    return ((end - start + _PERIOD // 2) & (_PERIOD - 1)) - _PERIOD // 2


time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000 & (_PERIOD - 1)
time.ticks_us = lambda: time.monotonic_ns() // 1_000 & (_PERIOD - 1)
time.ticks_add = lambda ticks, delta: (ticks + delta) & (_PERIOD - 1)
time.ticks_diff = _ticks_diff
time.sleep_ms = lambda ms: time.sleep(ms / 1000)
asyncio.sleep_ms = lambda ms: asyncio.sleep(ms / 1000)
