"""Processes that verify batches: most of that work is Python's, where one thread runs at a time.

What they cannot verify is nothing they decide about: the reconciler then looks for itself.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path
from threading import Thread
from typing import Any

from chargekeep_tools.home import Home
from chargekeep_tools.reconcile.verify import Batch, Stations, open_batches

_PART = 64  # messages that are worth sending to a process

Part = tuple[Sequence[tuple[str, bytes]], "Future[list[Any]]"]


class Verifiers:
    """`jobs` processes that know the stations of the home directory `root`."""

    def __init__(self, root: Path, jobs: int) -> None:
        self._root, self._jobs = root, jobs
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # we may have threads
        pool = ProcessPoolExecutor(self._jobs, context, _begin, (self._root,))
        for _ in range(self._jobs):
            pool.submit(_verify, [])  # they take half a second to start
        return pool

    def begin(self, messages: Sequence[tuple[str, bytes]]) -> list[Part]:
        """Let `messages`, each a topic and a payload, be verified."""
        size = max(_PART, -(-len(messages) // self._jobs))
        parts = [messages[i : i + size] for i in range(0, len(messages), size)]
        try:
            return [(part, self._pool.submit(_verify, part)) for part in parts]
        except BrokenProcessPool:  # one was killed: the others have ended by now
            self._pool = self._start()
            return self.begin(messages)

    def end(self, parts: list[Part]) -> Iterator[Batch | None]:
        """What `begin` gave, in order: None for what could not be verified."""
        for part, future in parts:
            try:
                found = future.result()
            except BrokenProcessPool:
                yield from repeat(None, len(part))
                continue
            for (_, payload), head in zip(part, found, strict=True):
                yield head and Batch._make((*head, payload))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


# In each process

_stations: Stations


def _begin(root: Path) -> None:
    global _stations
    _stations = Stations(Home(root))
    for number in (signal.SIGINT, signal.SIGTERM):  # ours comes when the reconciler has ended
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_end_with_the_reconciler, daemon=True).start()


def _end_with_the_reconciler() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _verify(messages: Sequence[tuple[str, bytes]]) -> list[Any]:
    """All of a `Batch` but the data, or None, for each of `messages`."""
    return [batch and batch[:-1] for batch in open_batches(messages, _stations)]
