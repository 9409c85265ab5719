"""Bugs of membership: who may vote, under which name, and who is taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from mutants.bug import Patch, bug

from gemot.server import autopilot, departed, recovery
from gemot.server.autopilot import Standing, Step
from gemot.server.bootstrap import Bootstrap
from gemot.server.model.errors import NotLeader
from gemot.server.operator import Operator
from gemot.server.reports import Reports
from gemot.server.rpc.message import Enlisted, Member
from gemot.server.state import restore
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

    def propose_at_once(self: Bootstrap) -> None:
        self._round.answered = {m.id: None for m in self._known.values()}
        propose_if_all(self)

    propose_if_all = Bootstrap._propose_if_all
    patch.setattr(Bootstrap, "_propose_if_all", propose_at_once)


@bug(33, tests=(BOOTSTRAP,), simulated=False)
def whoever_is_heard_of_is_a_founder(patch: Patch) -> None:
    """What a server expects itself is not asked: those that are to join later are waited for."""
    found = Bootstrap.found

    def found_willing(self: Bootstrap, member: Member, expect: int, cluster: str) -> None:
        found(self, member, self._expect, cluster)

    patch.setattr(Bootstrap, "found", found_willing)


@bug(13, tests=("tests/simulation/test_repair.py",))
def without_a_leader_a_server_says_nothing(patch: Patch) -> None:
    """One that repairs, and was removed while it was away, is never heard of again."""
    send = Reports.send

    def to_a_leader_only(self: Reports) -> None:
        if self._replica.leads or self._directory.get(self._tier.leader_id()) is not None:
            send(self)

    patch.setattr(Reports, "send", to_a_leader_only)


@bug(13, tests=("tests/server/test_voting.py",), simulated=False)
def a_removal_may_leave_no_quorum(patch: Patch) -> None:
    """A voter is taken out though too few of the others answer."""
    patch.setattr(Voting, "refusal", lambda self, id: None)


@bug(13, tests=("tests/server/test_voting.py", "tests/server/test_early_removal.py"), simulated=False)
def a_new_leader_hopes_that_the_others_live(patch: Patch) -> None:
    """A vote is taken before those who are needed without it have answered this leader."""
    attempt = Voting._try

    def try_on_hope(self: Voting, demand: Any) -> None:
        answered, self._answered = self._answered, self._alive
        attempt(self, demand)
        self._answered = answered

    patch.setattr(Voting, "_try", try_on_hope)


@bug(13, tests=("tests/server/test_operator.py",), simulated=False)
def who_repairs_counts_as_one_that_stays(patch: Patch) -> None:
    """A vote is taken though one that is needed without it lost part of its log, and is not filled up yet."""

    def answered(self: Operator) -> list[str]:
        matches = {peer.id: peer.match for peer in self._replica.raft.status().peers}
        return [id for id in self._alive() if id == self._tier.me.id or matches.get(id)]

    patch.setattr(Operator, "_answered", answered)


@bug(13, tests=("tests/server/test_departed.py",), simulated=False)
def who_lost_its_vote_is_gone_at_once(patch: Patch) -> None:
    """A dead server goes out of the catalog with its vote, and has no time to be started again."""
    patch.setattr(departed, "FAILED_AFTER_MS", -(1 << 40))


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


@bug(33, tests=("tests/server/test_operator.py",))
def amnesia(patch: Patch) -> None:
    """A server without data is taken in, even where its id has a vote."""

    def enlist(self: Operator, member: Member, done: Callable[[Any], None]) -> None:
        if not self._replica.leads:
            done(NotLeader(self._replica.raft.leader))
            return
        self.autopilot.forget(member.id)
        self._membership.joined(member, afresh=True)
        done(Enlisted(self._identity.cluster()))

    patch.setattr(Operator, "_enlist", enlist)


@bug(40, tests=("tests/test_machine.py",), simulated=False)
def voters_set_by_hand_begin_no_epoch(patch: Patch) -> None:
    """After a recovery by hand indexes that only the lost servers told are told again."""
    patch.setattr(restore, "recovered", lambda meta, index: None)
