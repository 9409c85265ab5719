"""What the leader makes of a follower's answers."""

from __future__ import annotations

import pytest

from gemot.server.raft.progress import Mode, Progress


def probing(next: int = 11, window: int = 3) -> Progress:
    return Progress(next=next, now=0, max_inflight=window)


def following(match: int = 10, window: int = 3) -> Progress:
    peer = probing(next=match + 1, window=window)
    assert peer.accepted(match)
    return peer


def test_one_accepted_probe_makes_it_follow() -> None:
    peer = probing()
    assert peer.accepted(10)
    assert (peer.mode, peer.match, peer.next) == (Mode.REPLICATE, 10, 11)


def test_no_more_than_the_window_is_sent_ahead() -> None:
    peer = following(window=3)
    for last in (11, 15, 16):
        assert not peer.full
        peer.sent(last)
    assert peer.full
    assert peer.next == 17
    with pytest.raises(AssertionError):
        peer.sent(17)


def test_one_answer_frees_every_batch_at_or_below_it() -> None:
    peer = following(window=3)
    for last in (11, 15, 16):
        peer.sent(last)
    assert peer.accepted(15)
    assert peer.inflight == 1
    assert not peer.full


def test_an_old_or_doubled_answer_never_lowers_the_match() -> None:
    peer = following(match=10)
    peer.sent(12)
    peer.accepted(12)
    assert not peer.accepted(5)
    assert (peer.match, peer.next) == (12, 13)


@pytest.mark.parametrize(
    ("floor", "moved", "next"),
    [
        (7, True, 8),
        (10, False, 11),  # nothing lower than what is tried already
        (25, False, 11),
        (0, True, 1),
    ],
)
def test_a_refused_probe_goes_back_to_the_floor_and_never_forward(floor: int, moved: bool, next: int) -> None:
    peer = probing(next=11)
    assert peer.refused(floor) is moved
    assert peer.next == next


def test_a_refusal_below_the_match_is_old_news() -> None:
    peer = following(match=10)
    peer.sent(12)
    assert not peer.refused(4)
    assert peer.mode is Mode.REPLICATE


def test_a_refusal_while_following_means_something_was_lost() -> None:
    peer = following(match=10)
    peer.sent(12)
    peer.sent(14)
    assert peer.refused(12)
    assert (peer.mode, peer.next, peer.inflight) == (Mode.PROBE, 13, 0)


def test_a_refusal_from_a_repairing_server_takes_its_match_back() -> None:
    peer = following(match=10)
    peer.sent(12)
    peer.note_repair(99, round=5)
    assert peer.repairing
    assert peer.match == 0
    assert peer.refused(3)
    assert peer.next == 4


def test_after_a_repair_only_the_newest_word_counts() -> None:
    peer = following(match=10)
    peer.note_repair(99, round=5)
    peer.accepted(40)
    peer.note_repaired(30)
    assert not peer.repairing
    assert peer.match == 30


def test_a_snapshot_is_left_with_what_it_held() -> None:
    peer = probing()
    peer.offer_snapshot()
    assert not peer.refused(3)
    peer.leave_snapshot(50)
    assert (peer.mode, peer.match, peer.next) == (Mode.REPLICATE, 50, 51)
