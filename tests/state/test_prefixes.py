"""Values under prefixes: found as by a look at all of them, whatever was put and popped in between."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gemot.server.state.prefixes import Prefixes

NAMES = st.lists(st.sampled_from([b"a", b"b", b"/", b"\xff"]), max_size=4).map(b"".join)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["put", "pop", "ask"]), NAMES), max_size=40))
def test_what_is_found_is_what_a_dict_of_all_would_say(steps: list[tuple[str, bytes]]) -> None:
    prefixes: Prefixes[int] = Prefixes()
    model: dict[bytes, int] = {}
    for number, (step, name) in enumerate(steps):
        if step == "put":
            prefixes.put(name, number)
            model[name] = number
        elif step == "pop" and name in model:
            prefixes.pop(name)
            del model[name]
        elif step == "ask":
            covering = [model[p] for p in sorted(model) if name.startswith(p)]
            under = [model[p] for p in sorted(model) if p.startswith(name)]
            assert prefixes.covering(name) == covering
            assert prefixes.under(name) == under
            assert prefixes.overlapping(name) == list(dict.fromkeys(covering + under))
    assert dict(prefixes.items()) == model
