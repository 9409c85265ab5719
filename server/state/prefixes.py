"""Values filed under byte prefixes, found from a key in steps of the lengths in use, never by a scan."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefixes(Generic[T]):
    """A dict by prefix that also answers: which prefixes start this key, which keys start with this."""

    def __init__(self) -> None:
        self._values: dict[bytes, T] = {}
        self._count_by_length: dict[int, int] = {}
        self._lengths: tuple[int, ...] = ()
        self._sorted: list[bytes] | None = None
        """From the first question for them on: most of these dicts are never asked."""

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._values

    def get(self, prefix: bytes) -> T | None:
        return self._values.get(prefix)

    def items(self) -> Iterator[tuple[bytes, T]]:
        return iter(self._values.items())

    def put(self, prefix: bytes, value: T) -> None:
        if prefix not in self._values:
            if self._sorted is not None:
                insort(self._sorted, prefix)
            length = len(prefix)
            self._count_by_length[length] = self._count_by_length.get(length, 0) + 1
            if self._count_by_length[length] == 1:
                self._lengths = tuple(sorted(self._count_by_length))
        self._values[prefix] = value

    def pop(self, prefix: bytes) -> None:
        del self._values[prefix]
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, prefix)]
        length = len(prefix)
        self._count_by_length[length] -= 1
        if not self._count_by_length[length]:
            del self._count_by_length[length]
            self._lengths = tuple(sorted(self._count_by_length))

    def covering(self, key: bytes) -> list[T]:
        """The values of every prefix that `key` starts with (itself included), shortest first."""
        size = len(key)
        found: list[T] = []
        for length in self._lengths:
            if length > size:
                break
            value = self._values.get(key[:length])
            if value is not None:
                found.append(value)
        return found

    def under(self, prefix: bytes) -> list[T]:
        """The values of every prefix that starts with `prefix` (itself included), in their order."""
        if self._sorted is None:
            self._sorted = sorted(self._values)
        keys = self._sorted
        found: list[T] = []
        for place in range(bisect_left(keys, prefix), len(keys)):
            key = keys[place]
            if not key.startswith(prefix):
                break
            found.append(self._values[key])
        return found

    def overlapping(self, prefix: bytes) -> list[T]:
        """The values of `covering`, then those of `under`, `prefix` itself once."""
        covering = self.covering(prefix)
        under = self.under(prefix)
        return covering + (under[1:] if prefix in self._values else under)
