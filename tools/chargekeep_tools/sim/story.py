"""A timeline of steps that either hold or end the story with the reason."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

Found = TypeVar("Found")


class StepFailed(Exception):
    """A step of the story did not hold; the text says which and why."""


class Story:
    """Prints what happens with the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.steps = 0
        self._console = Console(highlight=False, soft_wrap=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str, style: str = "") -> None:
        self._console.print(f"{self.seconds:7.2f} s  {text}", style=style, markup=False)

    def chapter(self, text: str) -> None:
        self._console.print(f"\n           {text}", style="bold", markup=False)

    @contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """Run a step; the body appends what it found to the list it is given."""
        found: list[str] = []
        try:
            yield found
        except StepFailed as failure:
            self.say(f"{text}: FAILED: {failure}", "bold red")
            raise
        except Exception as error:
            self.say(f"{text}: FAILED: {type(error).__name__}: {error}", "bold red")
            raise StepFailed(f"{text}: {error}") from error
        self.steps += 1
        self.say(": ".join([text, *found]))


def held(condition: object, why: str) -> None:
    """The step fails with `why` unless `condition` holds."""
    if not condition:
        raise StepFailed(why)


def wait_until(
    probe: Callable[[], Found | None], timeout: float, what: str, interval: float = 0.05
) -> Found:
    """The first true value of `probe()`; the step fails if there is none in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        held(time.monotonic() < deadline, f"{what}: not within {timeout:g} s")
        time.sleep(interval)
    return found
