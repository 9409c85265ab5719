"""Something that is done once in the whole cluster, for asyncio: see `client/once.py` for what is promised.

once = Once(Kv(agents), "jobs/migrate-7")
async with Hold(agents, Lock(once.key)) as hold:
    if await once.done() is None:
        await migrate()
        await once.record(hold, 0)
"""

from __future__ import annotations

from gemot.agent.client.aio.hold import Hold
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.aio.steps import drive
from gemot.agent.client.once import Done, finding, key_of, recording


class Once:
    """The record at a key, and how it is written. Raises ClientError."""

    def __init__(self, kv: Kv, key: str) -> None:
        """Raises ValueError where there is no key."""
        self.key = key_of(key)
        self._kv = kv

    async def done(self) -> Done | None:
        """What the record says; None if there is none. Raises LockConflict for what is no record."""
        return await drive(self._kv, finding(self.key))

    async def record(self, hold: Hold, exit_code: int) -> Done:
        """Write it under the fence of the key's lock; tried for as long as that is held.

        Raises as that of `client/once.py`. Where it is cancelled there may be a record or not: `done` tells,
        once the lock is another's or given back.
        """
        return await drive(self._kv, recording(self.key, hold, exit_code))
