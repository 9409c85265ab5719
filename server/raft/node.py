"""One member of the consensus group: `tick`, `step`, `propose`, `read_index` in; one `Ready` out.

What it is: the roles, and which of them hears what. What it is not: the rules themselves, which are in
`follower`, `election` and `leader`, on the state that `core` holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemot.server.raft.core import Core, Random
from gemot.server.raft.election import Candidacy, answer_pre_vote, answer_vote, ask_votes
from gemot.server.raft.errors import BadChange, NotLeader
from gemot.server.raft.follower import Following
from gemot.server.raft.leader import Leadership
from gemot.server.raft.log import LogReader, RaftLog
from gemot.server.raft.reads import Read
from gemot.server.raft.status import Status
from gemot.server.raft.types import (
    Append,
    AppendReply,
    Batch,
    CampaignNow,
    Entry,
    EntryKind,
    HardState,
    Message,
    RaftConfig,
    ReadAsk,
    ReadReply,
    Ready,
    Role,
    SnapshotMeta,
    SnapshotOffer,
    SnapshotReply,
    VoteAsk,
    VoteReply,
    Voters,
    encode_voters,
)

_ENTRIES_BYTES = 8 << 20


class Raft:
    """Drive it from one thread; after every event, take `ready()` while `has_ready()`.

    `snapshot` is the newest usable one (index 0: none); `log` must reach at least to it. `commit` is what is
    known to be committed: the applied index of the state.
    """

    def __init__(
        self,
        *,
        id: str,
        config: RaftConfig,
        random: Random,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        log: LogReader,
        last_index: int,
        commit: int,
        repairing: bool = False,
    ) -> None:
        assert id, "a server has an id"
        assert repairing or commit <= last_index, "applied past the log's end: entries were lost"
        self._log = RaftLog(
            reader=log, snapshot=snapshot, last_index=last_index, window_bytes=config.window_bytes
        )
        assert hard_state.term >= self._log.last_term, "the term is saved before the entries of it"
        self._core = Core(
            id=id,
            config=config,
            random=random,
            hard_state=hard_state,
            log=self._log,
            commit=max(snapshot.index, min(commit, last_index)),
        )
        self._following = Following(core=self._core, repairing=repairing)
        self._leadership: Leadership | None = None
        self._candidacy: Candidacy | None = None
        self._learners: tuple[str, ...] = ()
        self._token = 0
        self._applied = commit
        self._heard_leader = 0
        self._timer_start = 0
        self._timeout = 0
        self._told = (self._core.appliable, "", Role.FOLLOWER)
        self._reset_timer()

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A tick of the clock has passed."""
        self._core.tick()
        self._following.tick()
        if self._leadership is not None:
            if not self._leadership.tick():
                self._follow("")
        elif self._core.now - self._timer_start >= self._timeout:
            self._time_out()
        self._settle()

    def _time_out(self) -> None:
        self._reset_timer()
        if self._core.leader:
            self._lose_leader()
        if self._may_campaign():
            self._stand(pre=True, force=False)
        else:
            self._follow("")

    def _reset_timer(self) -> None:
        """The wait is drawn anew each time, so that two candidates do not split the vote for ever."""
        ticks = self._core.config.election_ticks
        self._timer_start = self._core.now
        self._timeout = ticks + int(self._core.random.random() * ticks)

    # -- messages ----------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """A message arrived: lost, doubled, late or reordered ones do no harm."""
        if message.sender in ("", self._core.id):
            return
        if isinstance(message, VoteAsk):
            self._on_vote_ask(message)
        elif message.term < self._core.term:
            self._answer_old(message)
        elif isinstance(message, VoteReply) and message.pre and message.granted:
            self._on_vote_reply(message)
        else:
            if message.term > self._core.term:
                self._core.enter_term(message.term)
                self._follow("")
            self._dispatch(message)
        self._settle()

    def _dispatch(self, message: Message) -> None:
        """A message of the present term."""
        leadership = self._leadership
        if isinstance(message, Append | SnapshotOffer):
            self._hear_leader(message.sender)
            if isinstance(message, Append):
                self._following.on_append(message)
            else:
                self._following.on_offer(message)
        elif isinstance(message, VoteReply):
            self._on_vote_reply(message)
        elif isinstance(message, AppendReply):
            if leadership is not None:
                leadership.on_append_reply(message)
        elif isinstance(message, SnapshotReply):
            if leadership is not None:
                leadership.on_snapshot_reply(message)
        elif isinstance(message, ReadAsk):
            if leadership is not None:
                leadership.on_read_ask(message)
            else:
                self._refuse_read(message)
        elif isinstance(message, ReadReply):
            self._following.on_read_reply(message)
        elif isinstance(message, CampaignNow) and leadership is None and self._may_campaign():
            self._stand(pre=False, force=True)

    def _answer_old(self, message: Message) -> None:
        """A sender of an older term learns ours, or it would go on for ever.

        Above all an old leader: a member with a higher term, which it cannot win an election with, would
        otherwise be cut off from it (etcd's CheckQuorum with PreVote; hashicorp/raft #477).
        """
        core = self._core
        if isinstance(message, Append | SnapshotOffer):
            # It may lead again by now, in this term: its rounds began anew, and this answers none of them.
            core.send(message.sender, AppendReply(core.term, core.id, False, 0, 0, 0, False))
        elif isinstance(message, ReadAsk):
            self._refuse_read(message)

    def _refuse_read(self, ask: ReadAsk) -> None:
        self._core.send(ask.sender, ReadReply(self._core.term, self._core.id, ask.id, 0))

    def _hear_leader(self, leader: str) -> None:
        assert self._leadership is None, f"{leader} leads in our own term {self._core.term}: two leaders"
        assert self._core.leader in ("", leader), f"{leader} and {self._core.leader} lead in one term"
        if self._core.leader != leader or self._core.role != Role.FOLLOWER:
            self._follow(leader)
        self._heard_leader = self._core.now
        self._reset_timer()

    def _hears_leader(self) -> bool:
        """Then candidates are not heard. A leader hears itself: it steps down when its quorum is gone."""
        recent = self._core.now - self._heard_leader < self._core.config.election_ticks
        return self._leadership is not None or (self._core.leader != "" and recent)

    # -- elections ---------------------------------------------------------------------------------

    def _may_campaign(self) -> bool:
        able = not self._following.repairing and not self._following.installing
        return self._core.stands and able and not self._core.stalled

    def _on_vote_ask(self, ask: VoteAsk) -> None:
        core = self._core
        if not core.voters:
            return  # not a member of any cluster yet: stay quiet
        if ask.term < core.term:
            core.send(ask.sender, VoteReply(core.term, core.id, False, ask.pre))
            return
        if self._hears_leader() and not ask.force:
            return
        # A vote that the disk does not take would never be told; the candidate hears that at once.
        unfit = self._following.repairing or core.stalled
        if ask.pre:
            answer_pre_vote(core, ask, unfit=unfit)
            return
        if ask.term > core.term:
            core.enter_term(ask.term)
            self._follow("")
        if answer_vote(core, ask, unfit=unfit):
            self._follow(core.leader)
            self._reset_timer()

    def _stand(self, *, pre: bool, force: bool) -> None:
        """Campaign: with `pre` only to learn whether a campaign would be won."""
        core = self._core
        assert self._may_campaign(), "only a healthy voter stands"
        if core.leader:
            self._lose_leader()
        if not pre:
            core.enter_term(core.term + 1)
            core.vote_for(core.id)
        core.role = Role.PRE_CANDIDATE if pre else Role.CANDIDATE
        self._candidacy = Candidacy(pre=pre)
        self._reset_timer()
        ask_votes(core, pre=pre, force=force)
        if pre:
            self._record(core.id, True)
        # The own vote counts once it is durable, as everyone's does: see `saved`.

    def _on_vote_reply(self, reply: VoteReply) -> None:
        core, candidacy = self._core, self._candidacy
        if candidacy is None or candidacy.pre != reply.pre:
            return
        if reply.granted and reply.term != core.term + reply.pre:
            return
        self._record(reply.sender, reply.granted)

    def _record(self, voter: str, granted: bool) -> None:
        core, candidacy = self._core, self._candidacy
        assert candidacy is not None, "votes are counted while standing"
        candidacy.record(voter, granted)
        if candidacy.won(core.voters):
            if not candidacy.pre:
                self._lead()
            elif self._may_campaign():
                self._stand(pre=False, force=False)
            else:
                self._follow("")  # its disk stalled meanwhile
        elif candidacy.lost(core.voters):
            self._follow("")

    def _count_own_vote(self) -> None:
        core, candidacy = self._core, self._candidacy
        if candidacy is None or candidacy.pre or self._log.durable < self._log.last:
            return
        if core.durable_hard.term == core.term:
            assert core.durable_hard.vote == core.id, "a candidate votes for itself"
            self._record(core.id, True)

    def _lead(self) -> None:
        core = self._core
        assert core.durable_hard == HardState(core.term, core.id), "the own vote is durable"
        assert self._log.durable == self._log.last, "the log that the votes were asked for is durable"
        self._candidacy = None
        core.role, core.leader = Role.LEADER, core.id
        self._leadership = Leadership(core=core, learners=self._learners)

    def _follow(self, leader: str) -> None:
        """Be a follower of `leader`, "" when it is not known, in the present term."""
        core = self._core
        if self._leadership is not None:
            self._leadership.refuse_reads()
            self._leadership = None
        if core.role != Role.FOLLOWER:
            self._reset_timer()
        self._candidacy = None
        core.role = Role.FOLLOWER
        if core.leader != leader or leader == "":
            self._lose_leader()
        core.leader = leader

    def _lose_leader(self) -> None:
        self._core.leader = ""
        self._following.lose_leader()

    # -- what callers ask --------------------------------------------------------------------------

    def propose(self, commands: Sequence[bytes]) -> int:
        """Log commands; returns the index of the first, the others follow it. Raises NotLeader or Busy.

        An index is no promise: the entry is committed when `commit` reaches it in the same term.
        """
        if self._leadership is None:
            raise NotLeader(self._core.leader)
        return self._leadership.propose(commands)

    def change_voters(self, voters: Sequence[str]) -> int:
        """Add or remove one voter; returns the entry's index. Raises NotLeader, Busy or BadChange."""
        if self._leadership is None:
            raise NotLeader(self._core.leader)
        return self._leadership.change_voters(voters)

    def feed(self, learners: Sequence[str]) -> None:
        """Also replicate to these servers, which do not vote, whenever this one leads."""
        self._learners = tuple(sorted(set(learners)))
        if self._leadership is not None:
            self._leadership.feed(self._learners)

    def bootstrap(self, voters: Sequence[str]) -> None:
        """Begin a new cluster: the first entry, alike on each of its founders. Raises BadChange."""
        core, wanted = self._core, tuple(sorted(set(voters)))
        if self._log.last or core.voters:
            raise BadChange(
                f"server {core.id} already has Raft data (term {core.term}): it joins, or is wiped"
            )
        if core.id not in wanted or "" in wanted:
            raise BadChange(f"the founders {wanted} do not name this server {core.id}, or name nobody")
        # Nobody campaigns in term 1, so every first entry of term 1 is this one. A founder that began
        # earlier may have asked for a vote in a later term already: the entry is the same all the same.
        if core.term == 0:
            core.enter_term(1)
        self._log.append(Batch([Entry(1, 1, EntryKind.VOTERS, encode_voters(Voters(wanted)))]))

    def read_index(self, id: int) -> None:
        """Ask up to where a state must be applied to answer a read; `Ready.read_states` tells.

        `id` is fresh for every ask. The answer is 0, refused, when there is no leader, when it changes
        on the way, when too many reads wait, or when this server is repairing; if the leader does not
        answer, it comes after an election timeout.
        """
        if self._leadership is None:
            self._following.read_index(id)
        elif not self._leadership.read(Read("", id)):
            self._core.answer_read(id, 0)

    def transfer(self, to: str | None) -> bool:
        """Hand the leadership to voter `to`, or to the most caught-up one. False if that cannot begin.

        Proposals are refused meanwhile. It is called off after an election timeout.
        """
        return self._leadership is not None and self._leadership.transfer(to)

    def campaign(self) -> None:
        """Stand for leader now, by pre-vote, without waiting for the timeout."""
        if self._leadership is None and self._may_campaign():
            self._stand(pre=True, force=False)

    # -- what the caller has done ------------------------------------------------------------------

    def saved(self, token: int) -> None:
        """The saves up to `token` are durable."""
        assert token <= self._token, f"token {token} was never handed out"
        self._core.saved(token)
        self._count_own_vote()
        if self._leadership is not None:
            self._leadership.on_durable()
        self._following.check_repair()
        self._settle()

    def applied(self, index: int) -> None:
        """The state holds everything up to `index`."""
        self._applied = max(self._applied, index)
        self._log.trim(self._applied)

    def installed(self, meta: SnapshotMeta, ok: bool) -> None:
        """The snapshot in `Ready.install` now is the state and the log's start, durably; or failed."""
        self._following.installed(meta, ok)
        if ok:
            self._applied = max(self._applied, meta.index)
        self._settle()

    def compacted(self, through: int, meta: SnapshotMeta) -> None:
        """Entries up to `through` may be gone; `meta` is the newest snapshot to offer."""
        self._log.compact(through, meta)

    # -- what is to be done ------------------------------------------------------------------------

    def has_ready(self) -> bool:
        core = self._core
        return bool(
            core.messages
            or core.after_save
            or core.read_states
            or core.install is not None
            or core.hard_unsaved
            or self._log.has_unsaved
            or (self._leadership is not None and self._leadership.send_due)
            or self._told != (core.appliable, core.leader, core.role)
        )

    def ready(self) -> Ready:
        """Take what is to be done. One save is at most a batch long: ask again while `has_ready`."""
        core = self._core
        if self._leadership is not None:
            self._leadership.flush()
        token, hard_state, append = self._take_save()
        after_save: tuple[tuple[str, Message], ...] = ()
        if not self._log.has_unsaved:
            after_save = tuple(core.after_save)
            core.after_save = []
        assert core.appliable >= self._told[0], "what may be applied never shrinks"
        self._told = (core.appliable, core.leader, core.role)
        ready = Ready(
            hard_state=hard_state,
            append=append,
            token=token,
            messages=tuple(core.messages),
            after_save=after_save,
            commit=core.appliable,
            read_states=tuple(core.read_states),
            install=core.install,
            leader=core.leader,
            role=core.role,
        )
        core.messages, core.read_states, core.install = [], [], None
        return ready

    def _take_save(self) -> tuple[int, HardState | None, Batch | None]:
        core = self._core
        # What must follow an earlier save that is still under way needs a save of its own to follow it.
        save_hard = core.hard_unsaved or (bool(core.after_save) and not self._log.has_unsaved)
        if not save_hard and not self._log.has_unsaved:
            return 0, None, None
        self._token += 1
        core.begin_save(self._token)
        hard_state = core.take_hard(self._token) if save_hard else None
        append = None
        if self._log.has_unsaved:
            append = self._log.take(self._token, core.config.max_batch_bytes)
        return self._token, hard_state, append

    def _settle(self) -> None:
        """What follows from any event: a leader that removed itself is done."""
        if self._leadership is not None and self._leadership.removed:
            self._follow("")

    # -- what is known -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._core.id

    @property
    def role(self) -> Role:
        return self._core.role

    @property
    def term(self) -> int:
        return self._core.term

    @property
    def leader(self) -> str:
        """The leader's id, "" when it is not known."""
        return self._core.leader

    @property
    def commit(self) -> int:
        """What is known to be committed; what may be applied here is `Ready.commit`."""
        return self._core.commit

    @property
    def lowest(self) -> int:
        """The first index whose entry is held."""
        return self._log.base + 1

    @property
    def last_index(self) -> int:
        return self._log.last

    @property
    def durable_index(self) -> int:
        return self._log.durable

    @property
    def voters(self) -> tuple[str, ...]:
        """The voter set in force, committed or not."""
        return self._core.voters

    @property
    def voters_index(self) -> int:
        """Where the voter set in force stands in the log (or the snapshot's index)."""
        return self._log.voters.latest_index

    @property
    def voters_settled(self) -> bool:
        """The voter set in force is committed: no change is under way."""
        return self._log.voters.latest_index <= self._core.commit

    @property
    def config(self) -> RaftConfig:
        return self._core.config

    def voters_at(self, index: int) -> tuple[str, ...]:
        """The voter set in force at this index: what a snapshot up to it names."""
        return self._log.voters.at(index)

    def term_at(self, index: int) -> int | None:
        """The term of an entry held, or of the one just before the first."""
        return self._log.term(index)

    def entries(self, first: int, last: int) -> tuple[Entry, ...]:
        """Entries first..last, or fewer (many bytes, or partly on disk), but at least one."""
        return self._log.entries(first, last, _ENTRIES_BYTES)

    @property
    def repairing(self) -> bool:
        return self._following.repairing

    @property
    def silent(self) -> tuple[str, ...]:
        """Voters that this leader has not heard for an election timeout."""
        return self._leadership.silent() if self._leadership is not None else ()

    @property
    def stalled(self) -> bool:
        """The disk has taken nothing for an election timeout: this server does not lead, stand or vote."""
        return self._core.stalled

    @property
    def stalls(self) -> int:
        """How often that began."""
        return self._core.stalls

    @property
    def quorum_contact_ticks(self) -> int:
        """How long ago a quorum was heard: by the leader itself, or by way of its word."""
        if self._leadership is not None:
            return self._leadership.quorum_contact_ticks()
        return self._core.now - self._heard_leader

    def status(self) -> Status:
        """For people; cheap, and works without a quorum."""
        core = self._core
        leadership = self._leadership
        return Status(
            id=core.id,
            role=core.role,
            term=core.term,
            leader=core.leader,
            commit=core.commit,
            applied=self._applied,
            first_index=self.lowest,
            last_index=self._log.last,
            durable_index=self._log.durable,
            snapshot_index=self._log.snapshot.index,
            voters=core.voters,
            repairing=self.repairing,
            installing=self._following.installing,
            handing_over_to=leadership.handing_over_to if leadership is not None else "",
            quorum_contact_ticks=self.quorum_contact_ticks,
            malformed_messages=self._following.malformed,
            peers=leadership.peer_status() if leadership is not None else (),
        )
