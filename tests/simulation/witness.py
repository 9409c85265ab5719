"""The witness check: every operation tells the log index it took effect at; the story must fit.

Writes name the index of their own entry, reads the applied index they were served from. That order must
agree with real time (what ended before something began has the smaller index), and replaying it on a
plain dictionary must give every result that was seen. O(n log n), so every run is checked whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

STALE = "stale"
"""A read that promises no freshness: it must be true of its moment, whenever that was."""

READS = frozenset(["get", "health", "save", STALE])


class Seen(msgspec.Struct, frozen=True):
    """One answered operation. `index` is its own for a write, the served state's for a read."""

    kind: str
    key: bytes
    began: int
    ended: int
    index: int
    value: bytes | None
    cas: int | None
    result: object


class Effect(msgspec.Struct, frozen=True):
    """What the replicated state did at an index: the truth that unknown outcomes are settled by."""

    index: int
    kind: str
    key: bytes
    value: bytes | None
    cas: int | None
    state: Mapping[bytes, tuple[bytes, int]] | None = None
    """What is stored from then on, where a snapshot was restored: key to value and modify index."""

    parts: tuple[Effect, ...] = ()
    """What a transaction did that was carried out, in its order, all at this one index."""

    def touches(self, key: bytes) -> bool:
        """Is it a write of this key, or of all under a prefix of it?"""
        if self.parts:
            return any(part.touches(key) for part in self.parts)
        return key.startswith(self.key) if self.kind == "delete-prefix" else key == self.key


class Violation(AssertionError):
    """The history cannot be explained."""


def check(
    history: Iterable[Seen],
    effects: Iterable[Effect],
    *,
    unanswered: Iterable[Seen] = (),
    refused: Iterable[Seen] = (),
) -> int:
    """Raise Violation, or tell how many operations were explained.

    `unanswered` are writes of unknown outcome, `refused` those that were told to be surely not done, if they
    were recorded; their `ended`, `index` and `result` mean nothing.
    """
    seen, done = list(history), list(effects)
    _check_once(seen, done)
    _check_refused(list(refused), done)
    check_real_time(seen + _placed(list(unanswered), done))
    return replay(seen, done)


def _check_once(seen: list[Seen], effects: list[Effect]) -> None:
    """An index belongs to one write, and one write to one index; clients write no value twice."""
    told: dict[int, Seen] = {}
    for op in seen:
        if op.began > op.ended:
            raise Violation(f"{op} ended before it began: that is no history")
        if op.kind not in READS and told.setdefault(op.index, op) is not op:
            raise Violation(f"{op} and {told[op.index]} were told the same index")
    written: dict[tuple[bytes, bytes], Effect] = {}
    for effect in effects:
        if effect.value is not None and written.setdefault((effect.key, effect.value), effect) is not effect:
            raise Violation(f"{effect} was applied before: {written[effect.key, effect.value]}")


def _check_refused(refused: list[Seen], effects: list[Effect]) -> None:
    """What was told to be surely not done is not done. Deletes have nothing to know them by."""
    values = {(op.key, op.value): op for op in refused if op.value is not None}
    for effect in effects:
        if effect.value is not None and (effect.key, effect.value) in values:
            raise Violation(f"{values[effect.key, effect.value]} was told not to be done; it was: {effect}")


def _placed(unanswered: list[Seen], effects: list[Effect]) -> list[Seen]:
    """The writes without an answer that were done after all, at their index, for ever under way."""
    by_value = {(e.key, e.value): e.index for e in effects if e.value is not None}
    return [
        msgspec.structs.replace(op, index=by_value[op.key, op.value or b""], ended=_NEVER)
        for op in unanswered
        if op.value is not None and (op.key, op.value) in by_value
    ]


_NEVER = 1 << 62


def check_real_time(history: Iterable[Seen]) -> None:
    """No operation may take effect before one that had ended when it began. Raises Violation."""
    seen = [op for op in history if op.kind != STALE]
    by_end = sorted(seen, key=lambda op: op.ended)
    ended_index, at = 0, 0
    latest: Seen | None = None
    for op in sorted(seen, key=lambda op: op.began):
        while at < len(by_end) and by_end[at].ended < op.began:
            if by_end[at].index > ended_index:
                ended_index, latest = by_end[at].index, by_end[at]
            at += 1
        if op.index < ended_index or (op.index == ended_index and op.kind not in READS and latest is not op):
            raise Violation(f"{op} took effect before {latest}, which had ended when it began")


def replay(seen: list[Seen], effects: list[Effect]) -> int:
    """Replay the effects; each write must find its effect, each read the value of its moment."""
    written: dict[bytes, tuple[bytes, int]] = {}
    by_index = {effect.index: effect for effect in effects}
    if len(by_index) != len(effects):
        raise Violation("two effects at one index")
    order = sorted(effects, key=lambda effect: effect.index)
    at = 0
    for op in sorted(seen, key=lambda op: (op.index, op.kind in READS)):
        before = op.index if op.kind in READS else op.index - 1
        while at < len(order) and order[at].index <= before:
            _check_parts(written, order[at])
            _apply(written, order[at])
            at += 1
        if op.kind in READS:
            value = written[op.key][0] if op.key in written else None
            if op.result != value:
                raise Violation(f"{op} read {op.result!r}, but {value!r} was there")
            continue
        effect = by_index.get(op.index)
        if effect is None or _words(effect) != _words(op):
            raise Violation(f"{op} was acknowledged, but at its index stands {effect}")
        if op.result != _would(written, effect):
            raise Violation(f"{op} was told {op.result!r}, the rules say {_would(written, effect)!r}")
    return len(seen)


def _check_parts(written: dict[bytes, tuple[bytes, int]], effect: Effect) -> None:
    """A transaction that was carried out compared with success, part by part."""
    state = dict(written) if effect.parts else {}
    for part in effect.parts:
        if not _would(state, part):
            raise Violation(f"{effect} was carried out, and {part} does not hold")
        _apply(state, part)


def replayed(effects: Iterable[Effect]) -> Iterator[tuple[Effect, dict[bytes, tuple[bytes, int]]]]:
    """Each effect in order, and what is stored after it (key to value and modify index; not to be kept)."""
    stored: dict[bytes, tuple[bytes, int]] = {}
    for effect in sorted(effects, key=lambda effect: effect.index):
        _apply(stored, effect)
        yield effect, stored


def _words(of: Seen | Effect) -> tuple[object, ...]:
    """What was asked: it has to be what was done, condition and all."""
    return (of.kind, of.key, of.value, of.cas)


def _would(written: dict[bytes, tuple[bytes, int]], effect: Effect) -> bool:
    """What this effect answers on the state before it."""
    stored = written.get(effect.key)
    if effect.cas is None:
        return True
    if effect.kind == "delete":
        return stored is None or stored[1] == effect.cas
    return (stored is None) if effect.cas == 0 else (stored is not None and stored[1] == effect.cas)


def _apply(written: dict[bytes, tuple[bytes, int]], effect: Effect) -> None:
    if effect.state is not None:
        written.clear()
        written.update(effect.state)
        return
    for part in effect.parts:
        _apply(written, part)
    if not _would(written, effect):
        return
    if effect.kind == "delete-prefix":
        for key in [key for key in written if key.startswith(effect.key)]:
            del written[key]
    elif effect.kind == "delete":
        written.pop(effect.key, None)
    elif effect.value is not None and written.get(effect.key, (None, 0))[0] != effect.value:
        written[effect.key] = (effect.value, effect.index)
