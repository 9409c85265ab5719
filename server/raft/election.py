"""Standing for leader and voting: PreVote (thesis 9.6), RequestVote, and who is heard at all.

A pre-vote asks "would you vote for me?" and changes nothing durable anywhere; only a server that wins it
raises its term. A server that hears the leader ignores every candidate that was not told to campaign
(`force`), so neither a removed server nor a half-connected one can depose a leader that has its quorum.
"""

from __future__ import annotations

from gemot.server.raft import quorum
from gemot.server.raft.core import Core
from gemot.server.raft.types import VoteAsk, VoteReply


class Candidacy:
    """One try: the pre-vote and the vote are two of them."""

    def __init__(self, *, pre: bool) -> None:
        self.pre = pre
        self._granted: dict[str, None] = {}
        self._refused: dict[str, None] = {}

    def record(self, voter: str, granted: bool) -> None:
        (self._granted if granted else self._refused).setdefault(voter)

    def won(self, voters: tuple[str, ...]) -> bool:
        return quorum.won(voters, self._granted)

    def lost(self, voters: tuple[str, ...]) -> bool:
        return quorum.lost(voters, self._refused)


def ask_votes(core: Core, *, pre: bool, force: bool) -> None:
    """Ask every other voter.

    A real ask leaves only after the save: until the term and the own vote are durable, a crash would let
    this server campaign again in the same term, and collect the votes given to its longer, lost log.
    """
    ask = VoteAsk(
        term=core.term + 1 if pre else core.term,
        sender=core.id,
        last_index=core.log.last,
        last_term=core.log.last_term,
        pre=pre,
        force=force,
    )
    for voter in core.voters:
        if voter != core.id:
            if pre:
                core.send(voter, ask)
            else:
                core.send_after_save(voter, ask)


def _fresh_enough(core: Core, ask: VoteAsk) -> bool:
    """The candidate's log is at least as complete as ours (paper 5.4.1), unsaved entries of ours included."""
    return (ask.last_term, ask.last_index) >= (core.log.last_term, core.log.last)


def _refuse(core: Core, ask: VoteAsk) -> None:
    core.send(ask.sender, VoteReply(core.term, core.id, False, ask.pre))


def answer_pre_vote(core: Core, ask: VoteAsk, *, unfit: bool) -> None:
    """Say what a vote would be. Nothing changes here: no term, no vote, no timer."""
    free = ask.term > core.term or (core.leader == "" and core.vote in ("", ask.sender))
    if free and _fresh_enough(core, ask) and not unfit:
        core.send(ask.sender, VoteReply(ask.term, core.id, True, True))
    else:
        _refuse(core, ask)


def answer_vote(core: Core, ask: VoteAsk, *, unfit: bool) -> bool:
    """Vote, once the vote is durable. True if it was given."""
    assert ask.term == core.term, "the term was taken over before"
    free = core.vote in ("", ask.sender) and core.leader in ("", ask.sender)
    if not free or unfit or not _fresh_enough(core, ask):
        _refuse(core, ask)
        return False
    core.vote_for(ask.sender)
    core.send_after_save(ask.sender, VoteReply(core.term, core.id, True, False))
    return True
