"""A feed's items: what it holds after any changes, and what they weigh."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.wire import Place

KEYS = st.lists(st.sampled_from([b"a", b"b", b"\xff"]), max_size=3).map(b"".join)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.binary(max_size=4)),
        st.tuples(st.just("drop"), KEYS, st.just(b"")),
        st.tuples(st.just("prefix"), KEYS, st.just(b"")),
        st.tuples(st.just("begin"), KEYS, st.binary(max_size=4)),
    ),
    max_size=30,
)


@given(STEPS)
def test_any_changes_leave_the_items_that_a_plain_map_would_hold(
    steps: list[tuple[str, bytes, bytes]],
) -> None:
    feed, held = Feed(), dict[bytes, bytes]()
    for what, key, item in steps:
        if what == "set":
            feed.set(key, item)
            held[key] = item
        elif what == "drop":
            assert feed.drop(key) == (key in held)
            held.pop(key, None)
        elif what == "prefix":
            feed.drop_prefix(key)
            held = {each: value for each, value in held.items() if not each.startswith(key)}
        else:
            feed.has_begun = False
            held = {key: item}
            feed.begin(dict(held), Place(1, 0))
        assert feed.items == held
        assert feed._bytes == sum(len(key) + len(item) for key, item in held.items())


class _Counted(bytes):
    """A key that counts how often it is looked into."""

    looks = 0

    def startswith(self, *of: object) -> bool:
        _Counted.looks += 1
        return super().startswith(*of)  # type: ignore[arg-type]

    def __lt__(self, other: bytes) -> bool:
        _Counted.looks += 1
        return super().__lt__(other)

    def __getitem__(self, at: object) -> bytes:  # type: ignore[override]
        _Counted.looks += 1
        return super().__getitem__(at)  # type: ignore[index, return-value]

    __hash__ = bytes.__hash__


def test_a_prefix_that_goes_costs_no_look_at_every_key() -> None:
    feed = Feed()
    feed.begin({_Counted(b"a/%04d" % n): b"x" for n in range(1_000)}, Place(1, 0))
    feed.drop_prefix(b"a/zz")
    _Counted.looks = 0
    for n in range(100):
        feed.drop_prefix(b"a/zz%d" % n)
    assert 0 < _Counted.looks < 100 * 100, "100 prefixes, some dozen keys each"
    feed.drop_prefix(b"a/00")
    assert len(feed.items) == 900
