"""How old an answer is that no leader stands behind, in the words that every part tells it with."""

from __future__ import annotations

FRESH_MS = 3_000
"""Up to this long without a leader's word an answer passes for present: an election takes about two."""

NEVER_MS = 1 << 31
"""From here on: the server that answered has heard no leader since it started (`server/consensus.py`)."""


def age_ms(last_contact_ms: int, *, known_leader: bool) -> int:
    """0 for what is as good as present; else how long ago the server that answered heard a leader."""
    return 0 if known_leader and last_contact_ms <= FRESH_MS else max(1, last_contact_ms)


def as_of(age_ms: int) -> str:
    """`as of 12 s ago`, or that nobody can say."""
    if age_ms >= NEVER_MS:
        return "of unknown age, since the server asked has heard no leader since it started"
    return f"as of {age_ms // 1000} s ago, when a leader was heard last"
