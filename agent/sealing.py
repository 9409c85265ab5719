"""Whose gossip this is, and how it is sealed: what is configured, with the ring of this agent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gemot.agent.gossip.held_ring import HeldRing
from gemot.agent.gossip.keyring import Keyring
from gemot.agent.gossip.ringfile import RingFile, open_ring
from gemot.agent.gossip.seal import Purpose, Seal


class Sealing(msgspec.Struct, frozen=True):
    """Without a `ring` gossip is in clear."""

    label: str = ""
    ring: HeldRing | None = None
    verify_incoming: bool = True
    verify_outgoing: bool = True

    @property
    def only(self) -> bool:
        """Nothing is taken in clear."""
        return self.ring is not None and self.verify_incoming

    def seals(self, sender: str) -> tuple[Seal, Seal]:
        """For datagrams and for frames; a change of the ring reaches both."""
        datagrams, frames = (
            Seal(
                purpose=purpose,
                label=self.label,
                sender=sender,
                wall_ms=int(time.time() * 1000),
                ring=self.ring.ring if self.ring is not None else None,
                verify_incoming=self.verify_incoming,
                verify_outgoing=self.verify_outgoing,
            )
            for purpose in (Purpose.DATAGRAM, Purpose.FRAME)
        )
        if self.ring is not None:
            self.ring.seals = (datagrams, frames)
        return datagrams, frames


def held_ring(encrypt: str, data_dir: Path | None, now_s: Callable[[], float]) -> HeldRing | None:
    """The ring of this agent, None without a key; without `data_dir` a change of it lasts until the end.

    Raises BadRequest for a key or file that is none, DiskFailed.
    """
    file = RingFile(data_dir) if data_dir is not None else None
    ring = open_ring(encrypt, file)
    if ring is None:
        return None
    keep = file.write if file is not None else _forget
    return HeldRing(ring=ring, keep=keep, draw=lambda: secrets.token_hex(16), now_s=now_s)


def _forget(_ring: Keyring) -> None:
    """With `disable_keyring_file` a change holds until this process ends."""
