"""What a change of the keys would do to the members, before any of them is changed. Pure.

A member that seals with a key is understood by those that have it; one that lacks the key which others seal
with is cut off. So a key is used once all have it, and removed once nobody seals with it; who cannot be asked
might be the one who is cut off, so those two steps wait for it, or for an operator who says that it will not
come back (`gemot force-leave`). To install a key does no harm to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gemot.agent.gossip.keyring import MOST_KEYS, Key
from gemot.agent.gossip.stream import Ring

Step = Literal["install", "use", "remove"]

MOST_NAMED = 10
"""In one sentence; there may be thousands."""


class Asked(msgspec.Struct, frozen=True):
    """What came of asking. Members by name: their rings, why there is none of theirs, and who has failed."""

    rings: Mapping[str, Ring]
    silent: Mapping[str, str]
    failed: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"Asked({len(self.rings)} answered, {len(self.silent)} did not)"


def harm(step: Step, key: Key, asked: Asked) -> str:
    """Why this step must not be taken, "" if nothing is against it. Nothing was changed yet.

    Keys are known here by their fingerprints.
    """
    if step == "install":
        full = [
            name
            for name, ring in asked.rings.items()
            if len(ring.keys) >= MOST_KEYS and key.fingerprint not in ring.keys
        ]
        return f"{MOST_KEYS} keys, the most there can be, are installed on {named(full)}" if full else ""
    if step == "use":
        lacking = [name for name, ring in asked.rings.items() if key.fingerprint not in ring.keys]
        if lacking:
            return f"it is not installed on {named(lacking)}: install it first"
    else:
        using = [name for name, ring in asked.rings.items() if ring.keys[:1] == (key.fingerprint,)]
        if using:
            return f"it is the primary of {named(using)}: use another one first"
        if asked.rings and not any(key.fingerprint in ring.keys for ring in asked.rings.values()):
            return "no member that was asked has it: `gemot keyring -list` shows which there are"
    unknown = [*(f"{name} ({why})" for name, why in asked.silent.items()), *asked.failed]
    if unknown:
        return (
            f"{named(unknown)} cannot be asked, and may be cut off by it: wait until it is back, "
            "or say that it will not come (`gemot force-leave`)"
        )
    return ""


def named(names: Sequence[str]) -> str:
    names = sorted(names)
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown
