"""One-way links: every set of them among three servers, and a sample among five (promise P8, bug 10)."""

from __future__ import annotations

import pytest
from support.raft_links import STARTS, Trial, every_graph, majorities, some_graph, trial

from gemot.server.raft.leader import Leadership
from gemot.server.raft.node import Raft

SAMPLES = 200
_GROUP = 20


@pytest.mark.parametrize("start", STARTS)
def test_every_graph_of_three_servers(start: str) -> None:
    graphs = list(every_graph("123"))
    assert len(graphs) == 64
    outcomes = [trial("123", working, start, seed) for seed, working in enumerate(graphs)]
    # Some pair speaks both ways: 64 - 27 graphs (each of the three pairs has three ways not to).
    assert sum(outcome.good for outcome in outcomes) == 37


@pytest.mark.parametrize("first", range(0, SAMPLES, _GROUP))
def test_sampled_graphs_of_five_servers(first: int) -> None:
    for seed in range(first, first + _GROUP):
        trial("12345", some_graph("12345", seed), STARTS[seed % len(STARTS)], seed)


def test_half_of_the_sample_has_a_connected_majority() -> None:
    good = sum(bool(majorities("12345", some_graph("12345", seed))) for seed in range(SAMPLES))
    assert SAMPLES / 3 < good < SAMPLES


def _found() -> bool:
    """Is the planted bug seen in any graph of three?"""
    for seed, working in enumerate(every_graph("123")):
        for start in STARTS:
            try:
                Trial("123", working, start, seed).run()
            except AssertionError:
                return True
    return False


def test_a_leader_that_hears_nobody_and_stays_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the others quiet with its heartbeats, and commits nothing (no CheckQuorum)."""
    tick = Leadership.tick

    def never_down(self: Leadership) -> bool:
        tick(self)
        return True

    monkeypatch.setattr(Leadership, "tick", never_down)
    assert _found()


def test_a_candidate_that_is_heard_beside_a_leader_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not hear the leader deposes it (no pre-vote against a living leader)."""
    monkeypatch.setattr(Raft, "_hears_leader", lambda self: False)
    assert _found()
