"""What those who follow changes are promised, checked on what they were told: every change, once, in order.

Of each follower, which reads once and then asks again and again for what came behind what it was told:

- it begins with what was there at the index of its read;
- each answer tells every entry that changed what it follows between where it stood and where the answer says
  that it stands then, each at its own index, whole, with the rows as they then were, and nothing else;
- "compacted" is told only where the change table was trimmed behind that place, and what is followed may have
  been among it; another epoch only where a restore lies between;
- who goes by what it was told has, at each such place, what was there;
- in the end, with calm and a last round, it has come to the last change.

The truth is a model of the whole state (`txn_model.py`), stepped through the log entry by entry and, in a
transaction, operation by operation: it shares no rule with the product.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import msgspec
from simulation.txn_model import TxnModel, plain
from simulation.watches import Watched
from simulation.witness import Violation

from gemot.server.model.changes import KvChange, Told
from gemot.server.model.command import Command
from gemot.server.model.kv import KvDeletePrefix, KvEntry
from gemot.server.model.restore import Restore
from gemot.server.model.txn import KvOp, Txn, decode
from gemot.server.model.upkeep import TrimChanges

Rows = Mapping[bytes, KvEntry]
Steps = Mapping[bytes, tuple[KvEntry | None, ...]]
"""Of each key that an entry changed, what it came to, one after the other; None where it was gone."""


class Began(msgspec.Struct, frozen=True):
    """A read of all that is followed: from its index on changes are asked for."""

    index: int
    epoch: int
    entries: tuple[KvEntry, ...]


class Heard(msgspec.Struct, frozen=True):
    """The answer to a question for changes behind `after`; `index` and `epoch` are those of the answer."""

    after: int
    index: int
    epoch: int
    told: Told


class Logged(msgspec.Struct, frozen=True):
    """A command that took effect, with the cluster time of its entry and what it answered."""

    index: int
    time_ms: int
    command: Command
    value: bool | int | bytes


class _Entry(msgspec.Struct, frozen=True):
    """What one entry of the log did to keys; `swept` are prefixes under which it deleted all there was."""

    index: int
    steps: Steps
    swept: tuple[bytes, ...]
    restored: Rows | None = None


class Truth:
    """Every change of every key, by the log alone."""

    def __init__(self, log: Iterable[Logged]) -> None:
        self.entries: list[_Entry] = []
        self._epochs: list[tuple[int, int]] = [(0, 0)]
        self._trims: list[tuple[int, int, int]] = []
        self._of: dict[Watched, _Followed] = {}
        done = list(log)
        for logged, model, entry in _replayed(done):
            if entry.steps or entry.swept or entry.restored is not None:
                self.entries.append(entry)
            if isinstance(logged.command, Restore):
                self._epochs.append((logged.index, model.locks.epoch))
            elif isinstance(logged.command, TrimChanges):
                through = min(logged.command.through, logged.index)
                self._trims.append((logged.index, model.locks.epoch, through))

    def epoch_at(self, index: int) -> int:
        return self._epochs[bisect_right(self._epochs, index, key=lambda mark: mark[0]) - 1][1]

    def trimmed_at(self, index: int, epoch: int) -> int:
        """What the table of that epoch did not have any more as of this index."""
        through = (through for at, of, through in self._trims if at <= index and of == epoch)
        return max(through, default=0)

    def of(self, watched: Watched) -> _Followed:
        if watched not in self._of:
            self._of[watched] = _Followed(watched, self.entries)
        return self._of[watched]


class _Followed:
    """The same of one key or prefix: the states that it went through, and how."""

    def __init__(self, watched: Watched, entries: Iterable[_Entry]) -> None:
        self.watched = watched
        self._indexes = [0]
        self._states: list[Rows] = [{}]
        self._steps: list[Steps] = [{}]
        self.swept: set[int] = set()
        self._touched: list[int] = []
        """Where anything that begins with the key changed: of one key, too, only that tells what is gone."""

        for entry in entries:
            self._add(entry)

    def _add(self, entry: _Entry) -> None:
        watched = self.watched
        if any(watched.touched_by("delete-prefix", prefix) for prefix in entry.swept):
            self.swept.add(entry.index)
        if entry.restored is not None:
            self._put(entry.index, {k: v for k, v in entry.restored.items() if watched.holds(k)}, {})
            return
        if entry.index in self.swept or any(key.startswith(watched.key) for key in entry.steps):
            self._touched.append(entry.index)
        mine = {key: states for key, states in entry.steps.items() if watched.holds(key)}
        if mine:
            rows = dict(self._states[-1])
            for key, states in mine.items():
                _place(rows, key, states[-1])
            self._put(entry.index, rows, mine)

    def _put(self, index: int, rows: Rows, steps: Steps) -> None:
        self._indexes.append(index)
        self._states.append(rows)
        self._steps.append(steps)

    def at(self, index: int) -> Rows:
        return self._states[bisect_right(self._indexes, index) - 1]

    def between(self, after: int, through: int) -> dict[int, Steps]:
        first, end = bisect_right(self._indexes, after), bisect_right(self._indexes, through)
        return dict(zip(self._indexes[first:end], self._steps[first:end], strict=True))

    def touched_between(self, after: int, through: int) -> bool:
        return bisect_right(self._touched, after) < bisect_right(self._touched, through)

    def last_change(self, upto: int) -> int:
        return self._indexes[bisect_right(self._indexes, upto) - 1]


def _place(rows: dict[bytes, KvEntry], key: bytes, entry: KvEntry | None) -> None:
    if entry is None:
        rows.pop(key, None)
    else:
        rows[key] = entry


# -- the log, stepped through ------------------------------------------------------------------------


def _replayed(log: list[Logged]) -> Iterator[tuple[Logged, TxnModel, _Entry]]:
    model = TxnModel()
    archived = {each.command.index for each in log if isinstance(each.command, Restore)}
    as_of: dict[int, TxnModel] = {}
    for logged in log:
        as_of |= {i: model.copied() for i in archived if i < logged.index and i not in as_of}
        if isinstance(logged.command, Restore):
            model = model.restored(as_of[logged.command.index], logged.command.blob_epoch)
            entry = _Entry(logged.index, {}, (), dict(model.kv))
        else:
            entry = _Entry(logged.index, _steps(model, logged), _swept(logged))
        yield logged, model, entry


def _steps(model: TxnModel, logged: Logged) -> Steps:
    found: dict[bytes, tuple[KvEntry | None, ...]] = {}
    before = dict(model.kv)
    for _ in _moves(model, logged):
        for key in sorted({*before, *model.kv}):
            if before.get(key) != model.kv.get(key):
                found[key] = (*found.get(key, ()), model.kv.get(key))
        before = dict(model.kv)
    return found


def _moves(model: TxnModel, logged: Logged) -> Iterator[None]:
    """One for each single thing that it does, once that is done."""
    if not isinstance(logged.command, Txn):
        model.apply(logged.command, logged.index, logged.time_ms)
        yield
    elif _was_done(logged):
        yield from model.one_by_one(logged.command, logged.index, logged.time_ms)


def _was_done(logged: Logged) -> bool:
    return isinstance(logged.value, bytes) and not decode(logged.value).errors


def _swept(logged: Logged) -> tuple[bytes, ...]:
    match logged.command:
        case KvDeletePrefix(prefix=prefix):
            return (prefix,)
        case Txn(ops=ops) if _was_done(logged):
            return tuple(op.key for op in ops if isinstance(op, KvOp) and op.verb == "delete-tree")
    return ()


# -- the checks --------------------------------------------------------------------------------------


def check_follower(
    name: str, watched: Watched, story: Iterable[Began | Heard], truth: Truth, due: int | None
) -> tuple[int, Rows]:
    """Where it stands in the end, and what it then has. Raises Violation.

    `due`: after the change at that index it had time enough to hear of it; None asks for no last change.
    """
    followed = truth.of(watched)
    where, epoch, rows = 0, -1, dict[bytes, KvEntry]()
    for each in story:
        said = f"{name} was told {each}"
        if isinstance(each, Began):
            where, epoch, rows = each.index, each.epoch, {e.key: bare(e) for e in each.entries}
            _check_begin(said, each, rows, followed, truth)
            continue
        if epoch < 0 or each.after != where:
            raise Violation(f"asked behind {each.after}, and it stood at {where}: {said}")
        if each.epoch != epoch:
            _check_other_epoch(said, each, epoch, truth)
            epoch = -1
        elif each.told.compacted:
            _check_compacted(said, each, followed, truth)
            epoch = -1
        else:
            _check_told(said, each, rows, followed, truth)
            where = max(where, each.told.through)
    if due is not None and (epoch < 0 or where < followed.last_change(due)):
        raise Violation(f"{name} ends at {where}: the change at {followed.last_change(due)} was missed")
    return where, rows


def bare(entry: KvEntry) -> KvEntry:
    """As the model has it: what is left of a TTL is told by a read of one key alone."""
    return msgspec.structs.replace(plain(entry), remaining_ms=0)


def _check_begin(said: str, began: Began, rows: Rows, followed: _Followed, truth: Truth) -> None:
    if began.epoch != truth.epoch_at(began.index):
        raise Violation(f"that index is of the epoch {truth.epoch_at(began.index)}: {said}")
    if rows != followed.at(began.index):
        raise Violation(f"what was there at its index is {followed.at(began.index)}: {said}")


def _check_other_epoch(said: str, heard: Heard, epoch: int, truth: Truth) -> None:
    if heard.epoch < epoch or heard.epoch != truth.epoch_at(heard.index):
        raise Violation(
            f"it stood in the epoch {epoch}, of {truth.epoch_at(heard.index)} is the index: {said}"
        )


def _check_compacted(said: str, heard: Heard, followed: _Followed, truth: Truth) -> None:
    """None of this may be told where all that came behind is still there, or nothing was there to be told."""
    if heard.told.changes:
        raise Violation(f"changes are told, and that they are gone: {said}")
    if truth.epoch_at(heard.index) > heard.epoch:
        return  # restored meanwhile, which who tells it need not have come to
    trimmed = truth.trimmed_at(heard.index, heard.epoch)
    if trimmed <= heard.after:
        raise Violation(f"only what is up to {trimmed} was trimmed: {said}")
    if followed.at(heard.index) and not followed.touched_between(heard.after, heard.index):
        raise Violation(f"nothing of it has changed since: {said}")


def _check_told(
    said: str, heard: Heard, rows: dict[bytes, KvEntry], followed: _Followed, truth: Truth
) -> None:
    """`rows` are moved on by what is told."""
    told = heard.told
    through = max(heard.after, told.through)
    indexes = [change.index for change in told.changes]
    if indexes != sorted(indexes) or (indexes and not heard.after < indexes[0] <= indexes[-1] <= through):
        raise Violation(f"not in order, or not between {heard.after} and {through}: {said}")
    if truth.epoch_at(through) != heard.epoch:
        raise Violation(f"{through} is of the epoch {truth.epoch_at(through)}: {said}")
    wanted = followed.between(heard.after, through)
    for index, entry in groupby(told.changes, key=lambda change: change.index):
        steps = _follow(said, rows, list(entry), followed)
        if steps != wanted.pop(index, {}):
            expected = followed.between(index - 1, index).get(index, {})
            raise Violation(f"at {index} it tells {steps}, and there was {expected}: {said}")
        if not steps and index not in followed.swept:
            raise Violation(f"at {index} nothing of this had changed: {said}")
    if wanted:
        raise Violation(f"{wanted} is not told: {said}")
    if rows != followed.at(through):
        raise Violation(f"who goes by it has {rows}, and there was {followed.at(through)}: {said}")


def _follow(said: str, rows: dict[bytes, KvEntry], entry: list[KvChange], followed: _Followed) -> Steps:
    """What these changes of one entry make of the rows, key by key."""
    steps: dict[bytes, tuple[KvEntry | None, ...]] = {}

    def come_to(key: bytes, now: KvEntry | None) -> None:
        if rows.get(key) != now:
            _place(rows, key, now)
            steps[key] = (*steps.get(key, ()), now)
        elif now is not None:
            raise Violation(f"{now} is told twice: {said}")

    for change in entry:
        if change.op == "delete-prefix":
            if not (followed.watched.prefix and change.key.startswith(followed.watched.key)):
                raise Violation(f"a range is told that is not followed: {change}: {said}")
            for key in [key for key in rows if key.startswith(change.key)]:
                come_to(key, None)
        elif not followed.watched.holds(change.key) or (change.op == "set") is (change.entry is None):
            raise Violation(f"this is none of it: {change}: {said}")
        else:
            come_to(change.key, bare(change.entry) if change.entry is not None else None)
    return steps
