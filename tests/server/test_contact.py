"""How long ago the leader was heard, as a server tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.virtual import VirtualTimer, chance

from gemot.server.consensus import NEVER_MS, Replica
from gemot.server.raft.types import Append, Message, RaftConfig
from gemot.server.recovery import DataConfig, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.realdisk import RealDisk


class _Around:
    def send(self, to: str, message: Message) -> None: ...

    def save(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name.startswith("on_"), name
        return lambda *_: None


def test_a_server_that_has_just_started_claims_no_contact(tmp_path: Path) -> None:
    """Else a read with max_stale would be answered from a state as old as the last stop."""
    opened = open_data(
        disk=RealDisk(sync=False),
        config=DataConfig(directory=str(tmp_path), segment_bytes=1 << 20, raft=RaftConfig(), sync=False),
        node_id="a",
        random=chance(),
        authorizer=ALLOW_ALL,
    )
    timer, around = VirtualTimer(), _Around()
    replica = Replica(
        raft=opened.raft,
        log=around,  # type: ignore[arg-type]
        machine=opened.machine,
        state=opened.state,
        wire=around,
        timer=timer,
    )
    replica.start(around)
    timer.run()
    assert replica.last_contact_ms() >= NEVER_MS
    replica.on_message(Append(1, "b", 0, 0, 0, 0, b""))
    timer.pass_ms(40)
    assert replica.last_contact_ms() == 40
    opened.file.close()
