"""What every role works on: identity, term and vote, log, commit, and what waits for the next `Ready`."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gemot.server.raft.log import RaftLog
from gemot.server.raft.types import (
    AppendReply,
    HardState,
    Message,
    RaftConfig,
    ReadState,
    Role,
    SnapshotOffer,
)


class Random(Protocol):
    def random(self) -> float:
        """In [0, 1)."""


class Core:
    """State shared by the roles. The rules are in `node`, `leader`, `follower` and `election`."""

    def __init__(
        self, *, id: str, config: RaftConfig, random: Random, hard_state: HardState, log: RaftLog, commit: int
    ) -> None:
        self.id = id
        self.config = config
        self.random = random
        self.log = log
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.commit = commit
        self.role = Role.FOLLOWER
        self.leader = ""
        self.now = 0
        self.messages: list[tuple[str, Message]] = []
        self.after_save: list[tuple[str, Message]] = []
        self.read_states: list[ReadState] = []
        self.install: SnapshotOffer | None = None
        self.durable_hard = hard_state
        self._taken_hard = hard_state
        self._hard_saves: deque[tuple[int, HardState]] = deque()
        self._saving = 0
        self._saved = 0
        self._save_moved = 0
        self.stalls = 0

    # -- who we are --------------------------------------------------------------------------------

    @property
    def voters(self) -> tuple[str, ...]:
        return self.log.voters.latest

    @property
    def votes(self) -> bool:
        return self.id in self.voters

    @property
    def stands(self) -> bool:
        """It may campaign: as a voter, or as one whose removal is not known to be committed.

        Without the latter, a leader of two that logs its own removal and falls leaves nobody who can win:
        its log is longer than the other's, and it would not stand itself (thesis 4.2.2).
        """
        return self.log.voters.names_since(self.id, self.commit)

    # -- term and vote -----------------------------------------------------------------------------

    def enter_term(self, term: int) -> None:
        assert term > self.term, "terms only grow"
        self.term = term
        self.vote = ""
        # Replies of the old term that still wait for a save speak of a vote or of entries that may be
        # replaced before they are ever saved.
        self.after_save.clear()

    def vote_for(self, candidate: str) -> None:
        assert self.vote in ("", candidate), "one vote a term"
        self.vote = candidate

    @property
    def hard_unsaved(self) -> bool:
        """Term or vote differ from what was last handed out to be saved."""
        return self._taken_hard.term != self.term or self._taken_hard.vote != self.vote

    def take_hard(self, token: int) -> HardState:
        taken = HardState(self.term, self.vote)
        assert taken.term >= self._taken_hard.term, "terms only grow on disk"
        self._taken_hard = taken
        self._hard_saves.append((token, taken))
        return taken

    def begin_save(self, token: int) -> None:
        """A save leaves for the disk."""
        if self._saving == self._saved:
            self._save_moved = self.now
        self._saving = token

    def saved(self, token: int) -> None:
        if token > self._saved:
            self._saved, self._save_moved = token, self.now
        self.log.saved(token)
        while self._hard_saves and self._hard_saves[0][0] <= token:
            self.durable_hard = self._hard_saves.popleft()[1]

    @property
    def stalled(self) -> bool:
        """The disk has taken no save for an election timeout, though one waits for it (bug list 30).

        Such a server is alive and useless: heartbeats keep it in office while nothing it is told is ever
        answered. So it does not lead, stand or vote; it follows, and is counted as far as it is durable.
        """
        return self._saved < self._saving and self.now - self._save_moved >= self.config.election_ticks

    def tick(self) -> None:
        stalled = self.stalled
        self.now += 1
        self.stalls += self.stalled and not stalled

    # -- commit ------------------------------------------------------------------------------------

    def advance_commit(self, index: int) -> bool:
        assert index <= self.log.last, "only what is in the log is committed"
        if index <= self.commit:
            return False
        self.commit = index
        return True

    @property
    def appliable(self) -> int:
        """Never past what is durable here, though a majority of others may be further."""
        return min(self.commit, self.log.durable)

    # -- sending -----------------------------------------------------------------------------------

    def send(self, to: str, message: Message) -> None:
        self.messages.append((to, message))

    def send_after_save(self, to: str, message: Message) -> None:
        """Once the next save is durable, and with it every earlier one."""
        if isinstance(message, AppendReply) and self.after_save:
            last_to, last = self.after_save[-1]
            if last_to == to and isinstance(last, AppendReply) and last.ok and message.ok:
                assert last.term == message.term, "replies of an old term are dropped with it"
                # One word for all that is saved together.
                if message.match >= last.match and message.round >= last.round:
                    self.after_save[-1] = (to, message)
                    return
        self.after_save.append((to, message))

    def answer_read(self, id: int, index: int) -> None:
        """`index` 0 refuses."""
        self.read_states.append(ReadState(id, index))
