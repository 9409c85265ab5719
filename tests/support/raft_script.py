"""Scripts over a group of real Raft cores: a command a line, and the log that must follow it.

A script is text: `#` lines are prose, lines at the margin are commands, and the indented lines below one are
exactly what happened because of it. `run` gives the whole text back with the log written anew, so a test
compares two texts, and a change of behaviour is a diff that people can read. The words are explained in
tests/raft/testdata/README.md.

Nothing happens by itself: no time passes, no message travels and no save ends unless a command says so.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from support.raft_disk import Disk, Save
from support.raft_group import Group, Member
from support.raft_words import data_from, entry_words, message_words, save_words, voters_words

from gemot.server.raft.errors import Refused
from gemot.server.raft.types import (
    Entry,
    HardState,
    Message,
    RaftConfig,
    Role,
    SnapshotMeta,
    VoteAsk,
    VoteReply,
)

INDENT = "    "
_OPTIONS = {
    "election": "election_ticks",
    "heartbeat": "heartbeat_ticks",
    "inflight": "max_inflight_batches",
    "batch": "max_batch_bytes",
    "uncommitted": "max_uncommitted_bytes",
    "reads": "max_pending_reads",
}


class NoChance:
    """Every election timeout is one and a half of the least one; every repair id is another one."""

    def __init__(self) -> None:
        self._calls = 0

    def random(self) -> float:
        self._calls += 1
        return 0.5 + self._calls * 2.0**-53


class Script:
    """One group, its messages under way, and the log of the command that runs."""

    def __init__(self) -> None:
        self._log: list[str] = []
        self._flying: dict[tuple[str, str], list[Message]] = {}
        self._group: Group | None = None
        self._read_ids = 0
        self._seen: dict[str, tuple[object, ...]] = {}
        self._saves: dict[str, int] = {}

    @property
    def group(self) -> Group:
        assert self._group is not None, "a script begins with `group`"
        return self._group

    def command(self, line: str) -> list[str]:
        """What follows from this line."""
        self._log = []
        verb, *words = line.split()
        handler: Callable[..., None] = getattr(self, "_do_" + verb)
        try:
            handler(*words)
            self._watch()
        except AssertionError as error:
            raise AssertionError(f"`{line}` breaks a law: {error}") from error
        return self._log or ["nothing"]

    def _say(self, line: str) -> None:
        self._log.append(line)

    # -- what is seen --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Take every Ready, and tell what changed, server by server."""
        for member in self.group.members.values():
            if member.up:
                self._watch_one(member)

    def _watch_one(self, member: Member) -> None:
        begun = len(member.disk.pending)
        applied, before = member.applied_index, self._seen.get(member.id)
        member.pump()
        self._tell_role(member, before)
        for save in list(member.disk.pending)[begun:]:
            self._say(f"{member.id} begins to save {save_words(save)}")
        self._send_all(member)
        if member.applied_index > applied:
            done = [entry_words(e) for e in member.applied if e.index > applied]
            self._say(f"{member.id} applies {' '.join(done)}")
        for read in member.reads:
            answer = f"may read at {read.index}" if read.index else "is refused"
            self._say(f"{member.id} read {read.id} {answer}")
        member.reads.clear()

    def _tell_role(self, member: Member, before: tuple[object, ...] | None) -> None:
        raft = member.raft
        now = (raft.role, raft.term, raft.leader, raft.voters, raft.repairing, member.offer is not None)
        self._seen[member.id] = now
        if before is None or before == now:
            return
        if before[:3] != now[:3]:
            told = f"of {raft.leader}" if raft.leader not in ("", raft.id) else ""
            role = raft.role.name.lower().replace("_", "-")
            self._say(f"{member.id} is {role} {told}".rstrip() + f", term {raft.term}")
        if before[3] != now[3]:
            self._say(f"{member.id} goes by voters {voters_words(raft.voters)}")
        if before[4] != now[4]:
            self._say(f"{member.id} {'is repairing' if raft.repairing else 'has repaired its log'}")
        if member.offer is not None and not before[5]:
            self._say(f"{member.id} fetches snapshot {member.offer.meta.index}@{member.offer.meta.term}")

    def _send_all(self, member: Member) -> None:
        while member.outbox:
            to, message = member.outbox.popleft()
            words = message_words(message)
            if (member.id, to) in self.group.cut:
                self._say(f"{member.id}-x>{to} {words}")
            else:
                self._flying.setdefault((member.id, to), []).append(message)
                self._say(f"{member.id}->{to} {words}")

    # -- the group -----------------------------------------------------------------------------------

    def _do_group(self, size: str, *options: str) -> None:
        """`group 4 voters 3 election 10 batch 1`: founded, and at rest."""
        given = dict(zip(options[::2], options[1::2], strict=True))
        ids = "123456789"[: int(size)]
        voters = ids[: int(given.pop("voters", size))]
        at = int(given.pop("at", "0"))
        config = RaftConfig(heartbeat_ticks=3, election_ticks=10)
        changes = {_OPTIONS[name]: int(value) for name, value in given.items()}
        self._group = _found(ids, voters, at, msgspec.structs.replace(config, **changes))
        for member in self.group.up:
            self._watch_one(member)
        self._log = [f"servers {ids}, voters {voters}, all at {self.group[voters[0]].raft.last_index}"]

    def _do_tick(self, id: str, count: str = "1") -> None:
        for _ in range(int(count)):
            self.group[id].raft.tick()
            self._watch()

    def _do_campaign(self, id: str) -> None:
        self.group[id].raft.campaign()

    def _do_elect(self, id: str) -> None:
        """A way to begin: `id` becomes leader and all come to rest, untold but for the end."""
        self.group.elect(id)
        self._quietly()

    def _do_win(self, id: str, *voters: str) -> None:
        """`id` becomes leader by the votes of these alone, which have forgotten their leader; told in brief.

        Only what asks and answers votes travels; the new leader's first entry is left under way.
        """
        for voter in voters:
            while self.group[voter].raft.leader and self.group[voter].raft.quorum_contact_ticks < 10:
                self.group[voter].raft.tick()
        for _ in range(60):
            if self.group[id].raft.role == Role.LEADER:
                break
            if not self._move_votes(id, voters):
                self.group[id].raft.campaign()
            self._watch()
        self._log = [line for line in self._log if f"{id} is leader" in line or " read " in line]
        assert self._log, f"{id} is not elected"

    def _move_votes(self, id: str, voters: tuple[str, ...]) -> bool:
        moved = False
        for voter in (id, *voters):
            member = self.group[voter]
            moved = moved or bool(member.disk.pending)
            if self.group[id].raft.role != Role.LEADER:
                member.finish_saves()
                self._watch()
        for (sender, to), queue in list(self._flying.items()):
            asks = [m for m in queue if isinstance(m, VoteAsk | VoteReply)]
            queue[:] = [m for m in queue if m not in asks]
            for message in asks if {sender, to} <= {id, *voters} else []:
                moved = True
                self.group[to].raft.step(message)
                self._watch()
        return moved

    def _do_settle(self) -> None:
        """All that travels arrives, all saves end, until nothing moves; only the end is told."""
        for sender, to in list(self._flying):
            for message in self._flying.pop((sender, to)):
                self.group.deliver(sender, to, message)
        self.group.settle()
        self._quietly()

    def _quietly(self) -> None:
        for member in self.group.up:
            self._watch_one(member)
        self._log = [line for line in self._log if " read " in line]
        self._do_show()

    # -- links ---------------------------------------------------------------------------------------

    def _take(self, link: str, which: str) -> list[tuple[str, str, Message]]:
        sender, to = link.split("->")
        queue = self._flying.get((sender, to), [])
        assert queue, f"nothing travels on {link}"
        if which == "all":
            taken, queue[:] = list(queue), []
        else:
            taken = [queue.pop(-1 if which == "last" else int(which) - 1)]
        return [(sender, to, message) for message in taken]

    def _do_deliver(self, link: str, which: str = "1") -> None:
        """The oldest message of the link arrives; or the `which`-th, the `last`, or `all` in order."""
        for _sender, to, message in self._take(link, which):
            if not self.group[to].up:
                self._say(f"{to} is down")
                continue
            self.group[to].raft.step(message)
            self._watch()

    def _do_drop(self, link: str, which: str = "1") -> None:
        for sender, to, message in self._take(link, which):
            self._say(f"lost {sender}->{to} {message_words(message)}")

    def _do_double(self, link: str, which: str = "1") -> None:
        """A copy of the message travels last."""
        ((sender, to, message),) = self._take(link, which)
        queue = self._flying[sender, to]
        queue.insert(0 if which == "1" else int(which) - 1, message)
        queue.append(message)
        self._say(f"twice {sender}->{to} {message_words(message)}")

    def _do_flying(self) -> None:
        for (sender, to), queue in sorted(self._flying.items()):
            for at, message in enumerate(queue, 1):
                self._say(f"{at}. {sender}->{to} {message_words(message)}")

    def _do_cut(self, *links: str) -> None:
        """`cut 1->2` one way, `cut 1` all that leads to or from it; what travels already still arrives."""
        for link in links:
            if "->" in link:
                sender, to = link.split("->")
                self.group.cut[sender, to] = None
            else:
                self.group.isolate(link)
        self._say(" ".join(f"{a}-x>{b}" for a, b in sorted(self.group.cut) if a != b))

    def _do_heal(self) -> None:
        self.group.heal()
        self._say("all links work")

    # -- what is asked -------------------------------------------------------------------------------

    def _ask(self, ask: Callable[[], object]) -> None:
        try:
            ask()
        except Refused as refused:
            self._say(f"refused, {type(refused).__name__}: {refused.message}")

    def _do_propose(self, id: str, *commands: str) -> None:
        self._ask(lambda: self.group[id].raft.propose([data_from(words) for words in commands]))

    def _do_change(self, id: str, voters: str) -> None:
        self._ask(lambda: self.group[id].raft.change_voters(list(voters)))

    def _do_feed(self, id: str, learners: str) -> None:
        self.group[id].raft.feed(list(learners))

    def _do_read(self, id: str) -> None:
        self._read_ids += 1
        self._say(f"read {self._read_ids} begins")
        self.group[id].raft.read_index(self._read_ids)

    def _do_transfer(self, id: str, to: str) -> None:
        if not self.group[id].raft.transfer(to):
            self._say("refused")

    # -- disks and lives -----------------------------------------------------------------------------

    def _do_save(self, id: str, count: str = "1") -> None:
        """The oldest save ends (or `all`)."""
        member = self.group[id]
        assert member.disk.pending, f"{id} saves nothing"
        for _ in range(len(member.disk.pending) if count == "all" else int(count)):
            applied = member.applied_index
            begun, self._seen[id] = list(member.disk.pending), self._seen[id]
            self._say(f"{id} has saved {save_words(begun[0])}")
            member.finish_save()
            self._after_save(member, begun, applied)

    def _after_save(self, member: Member, begun: list[Save], applied: int) -> None:
        """`finish_save` takes the Ready itself: tell what came of it."""
        self._tell_role(member, self._seen[member.id])
        for save in list(member.disk.pending)[len(begun) - 1 :]:
            self._say(f"{member.id} begins to save {save_words(save)}")
        self._send_all(member)
        if member.applied_index > applied:
            done = [entry_words(e) for e in member.applied if e.index > applied]
            self._say(f"{member.id} applies {' '.join(done)}")

    def _do_crash(self, id: str, how: str = "lose") -> None:
        """Saves under way are lost, or (`keep`) reach the disk though nobody will ever be told."""
        member = self.group[id]
        under_way = list(member.disk.pending)
        if how == "keep":
            while member.disk.pending:
                member.disk.finish()
        member.crash()
        self._seen.pop(id, None)
        self._say(f"{id} is down")
        for save in under_way:
            self._say(f"{'kept' if how == 'keep' else 'lost'}: {save_words(save)}")

    def _do_restart(self, id: str, lost: str = "", after: str = "") -> None:
        """`restart 2 lost 3`: what stood after index 3 was found damaged."""
        self.group[id].restart(lost_after=int(after) if lost else None)
        self._do_show(id)
        self._watch_one(self.group[id])

    def _do_wipe(self, id: str) -> None:
        """A new, empty disk under the old id."""
        self.group[id].disk = Disk()
        self.group[id].applied_index = 0
        self.group[id].applied = []

    def _do_snapshot(self, id: str, keep: str = "", count: str = "0") -> None:
        """Snapshot what is applied; cut the log there, or `keep 2` entries before."""
        self.group[id].compact(keep=int(count))
        status = self.group[id].raft.status()
        self._say(f"{id} has a snapshot at {status.snapshot_index}, log from {status.first_index}")

    def _do_install(self, id: str, how: str = "ok") -> None:
        member = self.group[id]
        assert member.offer is not None, "a snapshot was offered"
        index = member.offer.meta.index
        member.install(ok=how == "ok")
        self._say(f"{id} {'has installed' if how == 'ok' else 'could not install'} snapshot {index}")
        self._tell_role(member, self._seen[id])
        self._send_all(member)

    # -- what is known -------------------------------------------------------------------------------

    def _do_show(self, *ids: str) -> None:
        for id, member in self.group.members.items():
            if ids and id not in ids:
                continue
            if not member.up:
                self._say(f"{id} down")
                continue
            raft = member.raft
            status = raft.status()
            role = raft.role.name.lower().replace("_", "-")
            ends = f"{raft.last_index}@{raft.term_at(raft.last_index)}"
            line = (
                f"{id} {role} term {raft.term} log {ends} durable {raft.durable_index} commit {raft.commit}"
            )
            if raft.role == Role.FOLLOWER and raft.leader:
                line += f" leader {raft.leader}"
            self._say(line + (" repairing" if status.repairing else ""))

    def _do_log(self, id: str) -> None:
        raft = self.group[id].raft
        held: list[Entry] = []
        while raft.lowest + len(held) <= raft.last_index:
            held.extend(raft.entries(raft.lowest + len(held), raft.last_index))
        self._say(" ".join([f"{id} holds", *(entry_words(e) for e in held)]))

    def _do_disk(self, id: str) -> None:
        """What a crash would leave."""
        disk = self.group[id].disk
        vote = disk.hard_state.vote or "nobody"
        self._say(f"{id} has on disk term {disk.hard_state.term}, vote {vote}")
        self._say(" ".join([f"{id} has on disk", *(entry_words(e) for e in disk.durable.entries)]))


def _found(ids: str, voters: str, at: int, config: RaftConfig) -> Group:
    """A founded group; with `at`, one whose log begins behind a snapshot at that index."""
    group = Group(ids, voters="", config=config, chance=NoChance())
    for member in group.members.values():
        if at:
            member.disk.install(SnapshotMeta(at, 1, tuple(voters)))
            member.disk.hard_state = HardState(1, "")
            member.crash()
            member.restart()
    for id in voters if not at else "":
        group[id].raft.bootstrap(list(voters))
    group.settle()
    return group


def run(text: str) -> str:
    """The same script with the log that follows each command now."""
    script = Script()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines.extend(INDENT + told for told in script.command(line))
    return "\n".join(lines) + "\n"
