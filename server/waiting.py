"""What a server without a leader waits for, in words for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def for_quorum(
    me: str, voters: Sequence[str], unreached: Callable[[str], str], name: Callable[[str], str]
) -> str:
    """Who is there of those that have to agree, and what became of the others."""
    away = {id: unreached(id) for id in voters if id != me}
    have = sorted(name(id) for id in voters if not away.get(id))
    what = "an election" if len(have) * 2 > len(voters) else "quorum"
    told = f"Waiting for {what}: have {len(have)} of {len(voters)} ({', '.join(have)})"
    return "; ".join([told, *sorted(why for why in away.values() if why)])
