"""Where the model check begins, and how far it goes: situations that real steps have led to.

Breadth first from the foundation alone would see elections and little else: the bugs of Raft need two or
three leaders before they show. So each known kind of trouble is begun in its middle.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from support.raft_laws import Event, Violation
from support.raft_model import Bounds, Model, Result, State, explore


class Scope(msgspec.Struct, frozen=True):
    """A beginning, and how far to go from it."""

    begin: Callable[[Model], State]
    bounds: Bounds


def _born(model: Model) -> State:
    """Three founders; nobody has stood yet."""
    return model.founded("123")


def _steady(model: Model) -> State:
    """1 leads in term 2, and all agree."""
    return model.between(model.do(model.founded("123"), "timeout", "1"), "123")


def _divided(model: Model, old: bytes = b"old") -> State:
    """Figure 8 halfway: 1 alone has an entry of term 2, 3 alone one of term 3, and 2 has neither."""
    state = model.do(_steady(model), "propose", "1", old)._replace(sent=())
    state = _elect(model, model.do(state, "timeout", "3"), "3", "2")
    return model.do(state._replace(sent=()), "fall", "1")


def _older(model: Model) -> State:
    """Figure 8, one step before the end: 1 leads again, in term 4, and its old entry is on its way to 2.

    The entry is too large for a probe, so that it travels alone.
    """
    state = _divided(model, b"x" * 17_000)
    state = model.do(model.do(state, "timeout", "1"), "timeout", "1")
    state = _elect(model, state, "1", "2")
    for to, sender in (("2", "1"), ("1", "2")) * 2:
        state = _hear(model, state, to, sender)
    return state


def _slow(model: Model) -> State:
    """The disk of 2 is slow, and an entry of the old leader is on its way to it; 3 leads by the vote of 1."""
    state = model.do(_steady(model), "propose", "1", b"lost", slow=True)
    for number in state.sent:
        if model.messages[number][0] == 1:
            state = model.do(state, "step", "2", number, slow=True)
    state = model.do(state._replace(sent=()), "crash", "1")
    return _elect(model, model.do(state, "timeout", "3"), "3", "1")


def _behind(model: Model) -> State:
    """x is committed by 1 and 2, and only 1 knows: a new leader has it, and does not know it either."""
    state = model.do(_steady(model), "propose", "1", b"x")
    for to, sender in (("2", "1"), ("1", "2")):
        state = _hear(model, state, to, sender)
    return state._replace(sent=())


def _grown(model: Model) -> State:
    """1 and 2 vote, 1 leads; 3 has the log and is no voter."""
    state = model.between(model.do(model.founded("12"), "timeout", "1"), "12")
    return model.between(model.do(state, "feed", "1", "3"), "123")


def _lost_change(model: Model) -> State:
    """1 and 2 vote. 1 made 3 a voter, 3 has the entry, and 1 lost it in a crash (Ongaro, 2015-07-10)."""
    state = model.do(_grown(model), "change", "1", "123", slow=True)
    return model.do(_hear(model, state, "3", "1")._replace(sent=()), "crash", "1")


def _changed(model: Model) -> State:
    """1 has logged the removal of 2, alone; 3 leads by the vote of 2, which knows nothing of it."""
    state = model.do(_steady(model), "change", "1", "13")._replace(sent=())
    return _elect(model, model.do(state, "timeout", "3"), "3", "2")


def _deposed(model: Model) -> State:
    """1 leads in term 2 and has heard nothing; 2 leads in term 3 by the vote of 3."""
    return _elect(model, model.do(_behind(model), "timeout", "2"), "2", "3")


def _hear(model: Model, state: State, to: str, sender: str) -> State:
    """All that `sender` has said to `to`, in order, as far as it has an effect; then it is forgotten."""
    for number in state.sent:
        place, message = model.messages[number]
        if "123"[place] == to and message.sender == sender:
            after = model.after(state, Event("step", place, number), state.spent)
            state = after or state
            state = state._replace(sent=tuple(n for n in state.sent if n != number))
    return state


def _elect(model: Model, state: State, id: str, voter: str) -> State:
    """`id` stands already; its first entry is left under way."""
    state = _hear(model, state, voter, id)
    return _hear(model, state, id, voter)


# The first three are small enough to be seen to their end.
SCOPES = {
    "grow-all": Scope(_grown, Bounds(max_term=2, changes=1, crashes=1, slow=1)),
    "lost-all": Scope(_lost_change, Bounds(max_term=3, changes=1)),
    "older-all": Scope(_older, Bounds(max_term=4)),
    "birth": Scope(_born, Bounds(max_term=3, crashes=1, slow=1, pre_votes=True)),
    "steady": Scope(_steady, Bounds(max_term=4, proposals=2, crashes=1, slow=1)),
    "divided": Scope(_divided, Bounds(max_term=5, proposals=1, crashes=1)),
    "older": Scope(_older, Bounds(max_term=5, crashes=1)),
    "slow": Scope(_slow, Bounds(max_term=4, crashes=1, beats=1)),
    "grow": Scope(_grown, Bounds(max_term=4, changes=2, crashes=1, slow=1)),
    "lost": Scope(_lost_change, Bounds(max_term=4, changes=1, crashes=1)),
    "changed": Scope(_changed, Bounds(max_term=4, changes=1, proposals=1, crashes=1)),
    "reads": Scope(_behind, Bounds(max_term=4, reads=2, proposals=1, beats=1)),
    "deposed": Scope(_deposed, Bounds(max_term=4, reads=2, proposals=1, crashes=1)),
}


def check(name: str, limit: int) -> tuple[Model, Result]:
    scope = SCOPES[name]
    model = Model(scope.bounds)
    try:
        start = scope.begin(model)
    except Violation as violation:
        return model, Result(0, 0, False, f"{violation}, on the way to the beginning")
    return model, explore(model, start, limit=limit)
