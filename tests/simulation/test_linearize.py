"""The black-box checker on histories known to be good or bad: by hand, and by trying every order."""

from __future__ import annotations

import random
import time

import msgspec
import pytest
from simulation.blackbox import Story, check_sample, check_seen
from simulation.histories import KEY, Maker, naively_linearizable, spoil
from simulation.linearize import Report, explain, require
from simulation.register import NEVER, Kind, Op, Outcome
from simulation.witness import Effect, Seen, Violation

A, B, C = b"a", b"b", b"c"


def _get(value: bytes | None, began: int, ended: int) -> Op:
    return Op(Kind.GET, KEY, began, ended, value)


def _put(value: bytes, began: int, ended: int) -> Op:
    return Op(Kind.PUT, KEY, began, ended, value)


def _cas(expected: bytes | None, value: bytes, began: int, ended: int, answer: bool = True) -> Op:
    return Op(Kind.CAS, KEY, began, ended, value, expected, answer)


def _delete(began: int, ended: int) -> Op:
    return Op(Kind.DELETE, KEY, began, ended)


def _delete_cas(expected: bytes, began: int, ended: int, answer: bool = True) -> Op:
    return Op(Kind.DELETE_CAS, KEY, began, ended, None, expected, answer)


def _unknown(op: Op) -> Op:
    return msgspec.structs.replace(op, ended=NEVER, outcome=Outcome.UNKNOWN)


def _refused(op: Op) -> Op:
    return msgspec.structs.replace(op, outcome=Outcome.REFUSED)


GOOD = {
    "nothing": [],
    "in sequence": [
        _put(A, 0, 1),
        _get(A, 2, 3),
        _cas(A, B, 4, 5),
        _get(B, 6, 7),
        _delete(8, 9),
        _get(None, 10, 11),
    ],
    "a read during a write sees either": [_put(A, 0, 9), _get(None, 1, 2), _get(A, 3, 4)],
    "writes at once end in either order": [_put(A, 0, 9), _put(B, 0, 9), _get(A, 10, 11), _get(A, 12, 13)],
    "one of two compares wins": [_cas(None, A, 0, 9), _cas(None, B, 0, 9, answer=False), _get(A, 10, 11)],
    "an unknown write is seen late": [_unknown(_put(A, 0, 0)), _get(None, 5, 6), _get(A, 7, 8)],
    "an unknown write is never seen": [_put(B, 0, 1), _unknown(_put(A, 2, 2)), _get(B, 5, 6)],
    "an unknown write made a compare fail": [
        _put(B, 0, 1),
        _unknown(_put(A, 2, 2)),
        _cas(B, C, 3, 4, answer=False),
    ],
    "an unknown delete is why it is gone": [
        _put(A, 0, 1),
        _unknown(_delete(2, 2)),
        _get(A, 3, 4),
        _get(None, 5, 6),
    ],
    "an unknown compare proves what it saw": [
        _unknown(_put(A, 0, 0)),
        _unknown(_cas(A, B, 1, 1)),
        _get(None, 2, 3),
        _get(B, 4, 5),
    ],
    "an unknown delete by compare needs an unseen value": [
        _put(B, 0, 1),
        _unknown(_put(A, 2, 2)),
        _unknown(_delete_cas(A, 3, 3)),
        _get(None, 4, 5),
    ],
    "deleting by compare what is not there": [_delete_cas(A, 0, 1)],
    "touching times are at once": [_put(A, 0, 5), _get(None, 5, 6)],
    "a refused write is not seen": [_refused(_put(A, 0, 1)), _get(None, 2, 3)],
}

BAD = {
    "stale read": [_put(A, 0, 1), _put(B, 2, 3), _get(A, 4, 5)],
    "stale absence": [_put(A, 0, 1), _get(None, 2, 3)],
    "lost update": [_put(A, 0, 1), _cas(A, B, 2, 3), _cas(A, C, 4, 5), _get(C, 6, 7)],
    "lost write": [_put(A, 0, 1), _delete(2, 3), _put(B, 4, 5), _get(None, 6, 7)],
    "double apply": [_put(A, 0, 1), _put(B, 2, 3), _get(B, 4, 5), _get(A, 6, 7), _get(B, 8, 9)],
    "an unknown write applied twice": [
        _unknown(_put(A, 0, 0)),
        _get(A, 1, 2),
        _put(B, 3, 4),
        _get(B, 5, 6),
        _get(A, 7, 8),
    ],
    "read of what was never written": [_put(A, 0, 1), _get(C, 2, 3)],
    "read before it was written": [_get(A, 0, 1), _put(A, 2, 3)],
    "unknown write seen before it began": [_get(A, 0, 1), _unknown(_put(A, 2, 2))],
    "both compares succeed": [_cas(None, A, 0, 9), _cas(None, B, 0, 9)],
    "both compares fail": [_put(A, 0, 1), _cas(A, B, 2, 9, answer=False), _cas(A, C, 2, 9, answer=False)],
    "a compare fails for no reason": [_cas(None, A, 0, 1, answer=False)],
    "a compare succeeds on what is gone": [_put(A, 0, 1), _delete(2, 3), _cas(A, B, 4, 5)],
    "reads go back": [_put(A, 0, 1), _put(B, 2, 20), _get(B, 3, 4), _get(A, 5, 6)],
    "two readers disagree on the order": [
        _put(A, 0, 20),
        _put(B, 0, 20),
        _get(A, 1, 2),
        _get(B, 3, 4),
        _get(A, 5, 6),
    ],
    "resurrected after delete": [_put(A, 0, 1), _delete(2, 3), _get(None, 4, 5), _get(A, 6, 7)],
    "a delete that did nothing": [_put(A, 0, 1), _delete(2, 3), _get(A, 4, 5)],
    "a delete by compare of another value": [_put(A, 0, 1), _delete_cas(B, 2, 3)],
    "a delete by compare refused for no reason": [_put(A, 0, 1), _delete_cas(A, 2, 3, answer=False)],
    "a failed write is read": [_refused(_put(A, 0, 1)), _get(A, 2, 3)],
    "a refused compare is read": [_put(B, 0, 1), _refused(_cas(B, A, 2, 3)), _get(A, 4, 5)],
    "a compare that was told false took effect": [
        _put(A, 0, 1),
        _cas(B, C, 2, 3, answer=False),
        _get(C, 4, 5),
    ],
    "an unknown delete cannot bring back": [
        _put(A, 0, 1),
        _put(B, 2, 3),
        _unknown(_delete(4, 4)),
        _get(A, 5, 6),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_explained(name: str) -> None:
    assert naively_linearizable(GOOD[name]), "the naive judge agrees"
    assert explain(GOOD[name]).passed, explain(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_refused(name: str) -> None:
    assert not naively_linearizable(BAD[name]), "the naive judge agrees"
    report = explain(BAD[name])
    assert len(report.bad) == 1, report
    with pytest.raises(Violation, match="not linearizable"):
        require(BAD[name])


@pytest.mark.parametrize("values", [0, 3])
def test_the_checker_agrees_with_trying_every_order(values: int) -> None:
    """Thousands of small histories, good and spoilt: the same verdict each time."""
    chance = random.Random(11 + values)
    bad = good = 0
    for _ in range(6_000):
        clients = chance.randrange(1, 5)
        history = Maker(chance, clients=clients, unknown=0.2, values=values).history(chance.randrange(2, 8))
        assert explain(history).passed, history
        for _ in range(chance.randrange(1, 3)):
            history = spoil(history, chance)
        naive = naively_linearizable(history)
        report = explain(history)
        assert report.passed is naive, (history, report)
        assert not report.undecided
        bad, good = bad + (not naive), good + naive
    assert min(bad, good) > 1_000, "both verdicts were given often"


def test_histories_of_a_right_register_pass_and_a_stale_read_in_each_is_found() -> None:
    """The size it is for: hundreds of operations a key, five at once, some of unknown outcome."""
    chance = random.Random(5)
    began, steps = time.process_time(), 0
    for _ in range(40):
        history = Maker(chance, clients=5, unknown=0.02).history(300)
        report = require(history)
        steps += report.steps
        spoilt = _with_stale_read(history)
        assert explain(spoilt).bad, "a stale read"
    print(f"40 keys of 300 operations: {steps} steps, {time.process_time() - began:.2f} s for good and bad")


def _with_stale_read(history: list[Op]) -> list[Op]:
    """The last read tells the value that the first told."""
    reads = [op for op in history if op.kind is Kind.GET and op.value is not None]
    first, last = min(reads, key=lambda op: op.ended), max(reads, key=lambda op: op.began)
    assert first.value != last.value
    return [msgspec.structs.replace(op, value=first.value) if op is last else op for op in history]


def test_keys_are_judged_apart_and_the_bad_one_is_named() -> None:
    history = [*GOOD["in sequence"], *(msgspec.structs.replace(op, key=b"other") for op in BAD["stale read"])]
    report = explain(history)
    assert report.keys == 2
    assert len(report.bad) == 1
    assert "b'other'" in report.bad[0]


def test_a_search_that_is_cut_short_is_undecided_and_not_passed() -> None:
    history = Maker(random.Random(1), clients=5).history(50)
    report = explain(history, budget=10)
    assert not report.bad
    assert report.undecided == [KEY]
    assert not report.passed
    with pytest.raises(Violation, match="undecided"):
        require(history, budget=10)


def test_a_long_history_needs_no_deep_stack() -> None:
    assert require(Maker(random.Random(2), clients=3).history(5_000)).operations == 5_000


EFFECTS = [Effect(5, "set", KEY, A, None), Effect(7, "set", KEY, B, 5), Effect(9, "delete", KEY, None, None)]


def test_the_simulators_history_is_understood_and_its_indexes_are_not_believed() -> None:
    good = [
        Seen("set", KEY, 0, 1, 5, A, None, True),
        Seen("set", KEY, 2, 3, 7, B, 5, True),
        Seen("get", KEY, 4, 5, 7, None, None, B),
        Seen("get", KEY, 6, 7, 9, None, None, None),
    ]
    assert check_seen(good, EFFECTS).operations == 5, "the delete that nobody was told of is the fifth"
    # Told with an index that would make it right for a witness that believes: the value is old all the same.
    lie = [*good[:3], Seen("get", KEY, 6, 7, 6, None, None, A)]
    with pytest.raises(Violation, match="not linearizable"):
        check_seen(lie, EFFECTS)
    with pytest.raises(Violation, match="and is none"):
        check_seen([Seen("set", KEY, 0, 1, 5, A, 3, True)], EFFECTS)


def test_unanswered_writes_of_the_simulator_are_of_unknown_outcome() -> None:
    lost = [Seen("set", KEY, 10, 0, 0, A, None, None)]
    late = [Seen("get", KEY, 11, 12, 5, None, None, A)]
    assert check_seen(late, [], unanswered=lost).operations == 2
    with pytest.raises(Violation, match="not linearizable"):
        check_seen([Seen("get", KEY, 8, 9, 5, None, None, A)], [], unanswered=lost)


def _story(*history: Seen, unanswered: tuple[Seen, ...] = (), refused: tuple[Seen, ...] = ()) -> Story:
    return Story(history, EFFECTS, unanswered, refused)


def _sampled(story: Story, most: int = 100) -> Report:
    return check_sample(story, [KEY], random.Random(1), most)


WRITTEN = Seen("set", KEY, 0, 1, 5, A, None, True)
SWEPT = Seen("delete-prefix", KEY[:-1], 2, 3, 9, None, None, True)


def test_a_sample_takes_a_delete_of_a_prefix_for_a_delete_of_each_key_under_it() -> None:
    gone = Seen("get", KEY, 4, 5, 9, None, None, None)
    assert _sampled(_story(WRITTEN, SWEPT, gone)).operations == 3
    with pytest.raises(Violation, match="not linearizable"):
        _sampled(_story(WRITTEN, gone))


def test_a_sample_leaves_out_stale_reads_and_other_keys() -> None:
    stale = Seen("stale", KEY, 4, 5, 0, None, None, None)
    other = Seen("get", b"other", 4, 5, 0, None, None, A)
    assert _sampled(_story(WRITTEN, stale, other)).operations == 1


def test_a_refused_write_that_is_read_breaks_a_sample() -> None:
    with pytest.raises(Violation, match="was refused"):
        _sampled(_story(Seen("get", KEY, 4, 5, 5, None, None, A), refused=(WRITTEN,)))


def test_a_sample_that_is_cut_knows_of_writes_under_way_only_that_they_began() -> None:
    later = Seen("set", KEY, 2, 9, 7, B, None, True)
    read = Seen("get", KEY, 4, 5, 7, None, None, B)
    too_late = Seen("set", KEY, 6, 9, 7, C, None, True)
    assert _sampled(_story(WRITTEN, later, read, too_late), most=2).operations == 3
    early = Seen("get", KEY, 4, 5, 7, None, None, C)
    with pytest.raises(Violation, match="never written"):
        _sampled(_story(WRITTEN, early, too_late), most=2)
