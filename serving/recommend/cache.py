"""What was just made, kept for a time; of equal questions at once only one is worked on."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from cachetools import TTLCache

T = TypeVar("T")

MOST = 10_000
"""Answers that a process keeps."""


class Kept(Generic[T]):
    """Values by key, each for some seconds; threads share it.

    Args:
        seconds: 0 keeps nothing; equal questions at once are one even so.
    """

    def __init__(self, seconds: float, most: int = MOST) -> None:
        self._kept: TTLCache[Hashable, T] | None = TTLCache(most, seconds) if seconds else None
        self._making: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()
        self._generation = 0

    def of(
        self, key: Hashable, make: Callable[[], T], keep: Callable[[T], Any] = lambda _: True
    ) -> tuple[T, bool]:
        """Return the value of a key, and whether it was there or another thread made it.

        What `make` raises, all who wait for it get; it is not kept.

        Args:
            keep: Whether a value may be kept.
        """
        with self._lock:
            if self._kept is not None and (value := self._kept.get(key)) is not None:
                return value, True
            making = self._making.get(key)
            mine: Future[T] = Future()
            if making is None:
                self._making[key] = mine
            generation = self._generation
        if making is not None:
            return making.result(), True
        try:
            value = make()
        except BaseException as error:
            self._done(key, mine)
            mine.set_exception(error)
            raise
        with self._lock:
            if self._kept is not None and generation == self._generation and keep(value):
                self._kept[key] = value
        self._done(key, mine)
        mine.set_result(value)
        return value, False

    def clear(self) -> None:
        """Forget all: what is being made now is not kept either."""
        with self._lock:
            self._generation += 1
            self._making = {}
            if self._kept is not None:
                self._kept.clear()

    def _done(self, key: Hashable, mine: "Future[T]") -> None:
        with self._lock:
            if self._making.get(key) is mine:
                del self._making[key]
