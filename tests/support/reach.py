"""Which servers could reach each other when: since when a majority of the voters was up and connected.

Kept by whoever does faults and whoever sees the voters, from two threads. It is no verdict: `chaos.py` counts
with it the seconds in which progress was due.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection

from support.link_proxy import Pair


class Reach:
    """`majority` grows: a time, and whether from then on a majority was up and connected each to each."""

    def __init__(self, servers: Collection[str]) -> None:
        self._servers = set(servers)
        self._voters = set(servers)
        self._down: set[str] = set()
        self._cut: set[Pair] = set()
        self._lock = threading.Lock()
        self.majority: list[tuple[float, bool]] = [(time.monotonic(), True)]

    def down(self, *servers: str) -> None:
        with self._lock:
            self._down.update(servers)
            self._note()

    def up(self, *servers: str) -> None:
        with self._lock:
            self._down.difference_update(servers)
            self._note()

    def cut(self, pairs: Collection[Pair]) -> None:
        """These directions are cut from now on, and no others."""
        with self._lock:
            self._cut = set(pairs)
            self._note()

    def voters(self, names: Collection[str]) -> None:
        """Whoever votes now. What is none of the servers is gone: it counts, and is up no more."""
        with self._lock:
            if set(names) != self._voters:
                self._voters = set(names)
                self._note()

    def _note(self) -> None:
        up = sorted((self._voters & self._servers) - self._down)
        most = len(self._voters) // 2 + 1
        whole = any(
            not any(pair in self._cut for pair in itertools.permutations(group, 2))
            for group in itertools.combinations(up, most)
        )
        self.majority.append((time.monotonic(), whole))
