"""Bugs of membership: who may vote, under which name, and who is taken out."""

from __future__ import annotations

from typing import Any

import msgspec
from mutants.bug import Patch, bug

from gemot.server import autopilot, recovery
from gemot.server.autopilot import Standing, Step
from gemot.server.bootstrap import Bootstrap
from gemot.server.storage.meta import MetaFile
from gemot.server.voting import Voting

BOOTSTRAP = "tests/server/test_bootstrap.py"
AUTOPILOT = "tests/server/test_autopilot.py"


@bug(33, tests=("tests/server/test_recovery.py",), simulated=False)
def a_data_directory_of_another_is_taken(patch: Patch) -> None:
    """A server opens what another one has left, and votes with its promises under its own name."""
    opened = MetaFile.open

    def open_data(*, node_id: str, **named: Any) -> Any:
        def open_as_mine(disk: Any, directory: str) -> MetaFile:
            meta = opened(disk, directory)
            meta.meta = msgspec.structs.replace(meta.meta, node_id=node_id)
            return meta

        patch.setattr(MetaFile, "open", open_as_mine)
        try:
            return read(node_id=node_id, **named)
        finally:
            patch.setattr(MetaFile, "open", opened)

    read = recovery.open_data
    patch.setattr(recovery, "open_data", open_data)


@bug(33, tests=(BOOTSTRAP,), simulated=False)
def a_server_with_data_begins_again(patch: Patch) -> None:
    """A member of a cluster promises to found another one."""
    on_promise = Bootstrap.on_promise

    def on_any_promise(self: Bootstrap, *arguments: Any) -> None:
        has_data, self._has_data = self._has_data, lambda: False
        on_promise(self, *arguments)
        self._has_data = has_data

    patch.setattr(Bootstrap, "on_promise", on_any_promise)


@bug(33, tests=(BOOTSTRAP,), simulated=False)
def two_clusters_are_promised(patch: Patch) -> None:
    """A server promises whatever it is asked for last."""
    on_promise = Bootstrap.on_promise

    def on_any_promise(self: Bootstrap, *arguments: Any) -> None:
        self._pledge = None
        on_promise(self, *arguments)

    patch.setattr(Bootstrap, "on_promise", on_any_promise)


@bug(33, tests=(BOOTSTRAP,), simulated=False)
def a_founder_need_not_be_there(patch: Patch) -> None:
    """A cluster is proposed with whoever was met once: also under the name of one that was wiped since."""

    def look_around(self: Bootstrap, voters: tuple[Any, ...]) -> None:
        from gemot.server.bootstrap import Pledge

        if self._pledge is None and not self._has_data():
            self._promise(Pledge(self._mint_cluster(), self._me.id, voters), self._ask_all)

    patch.setattr(Bootstrap, "_look_around", look_around)


@bug(13, tests=("tests/server/test_voting.py",), simulated=False)
def a_removal_may_leave_no_quorum(patch: Patch) -> None:
    """A voter is taken out though too few of the others answer."""
    patch.setattr(Voting, "refusal", lambda self, id: None)


@bug(13, tests=(AUTOPILOT,), simulated=False)
def clean_up_takes_the_quorum(patch: Patch) -> None:
    """Dead voters are removed as long as there are any."""

    def removal(servers: Any, config: Any) -> Step | None:
        dead = [s for s in servers if s.voter and autopilot.is_dead(s, config)]
        return Step("remove", max(dead, key=lambda s: (s.silent_ms, s.id)).id) if dead else None

    patch.setattr(autopilot, "_removal", removal)


@bug(15, tests=(AUTOPILOT,), simulated=False)
def a_new_server_votes_at_once(patch: Patch) -> None:
    """A server is made a voter before it was stable for any time."""
    promotion = autopilot._promotion

    def promote(servers: list[Standing], config: Any) -> Step | None:
        stable = [msgspec.structs.replace(s, stable_ms=1 << 40, healthy=True) for s in servers]
        return promotion(stable, config)

    patch.setattr(autopilot, "_promotion", promote)
