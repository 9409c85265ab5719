"""Kept replies: they die with what they were made of, are drawn anew in turn, and stay within bounds."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from gemot.dns.cache import FORMS, RENEW_EVERY, Cache
from gemot.dns.catalog import Found
from gemot.dns.reply import Form


def make_form(size: int = 10, number: int = 0) -> Form:
    return Form(b"h%d" % number, bytes(size), ("A", "noerror"))


def numbered(size: int = 10) -> Callable[[], Form]:
    numbers = itertools.count(1)
    return lambda: make_form(size, next(numbers))


def make_cache(entries: int = 100, kilobytes: int = 1024) -> Cache:
    return Cache(limit_entries=entries, limit_bytes=kilobytes * 1024)


def test_a_reply_is_kept_until_one_of_its_sources_dies() -> None:
    cache, sources = make_cache(), (Found(), Found())
    cache.put(b"q", make_form(), sources, None, 1)
    assert cache.get(b"q") == make_form()
    sources[1].live = False
    assert cache.get(b"q") is None
    assert len(cache) == 0
    assert cache.size_bytes == 0


def test_using_a_kept_reply_counts_as_using_its_source() -> None:
    cache, source = make_cache(), Found()
    cache.put(b"q", make_form(), (source,), None, 1)
    cache.get(b"q")
    cache.get(b"q")
    assert source.used == 2


def test_a_reply_with_one_form_is_always_that_form() -> None:
    cache = make_cache()
    cache.put(b"q", make_form(), (Found(),), None, 1)
    assert {cache.get(b"q") for _ in range(100)} == {make_form()}


def test_a_shuffled_reply_has_many_forms_and_each_is_drawn_anew_in_time() -> None:
    cache = make_cache()
    cache.put(b"q", make_form(), (Found(),), numbered(), 5)
    first = [cache.get(b"q") for _ in range(FORMS - 1)]
    assert len(set(first)) == FORMS - 1, "every use makes another form until there are enough"
    rounds = [cache.get(b"q") for _ in range(FORMS * RENEW_EVERY)]
    assert len(set(rounds) - set(first)) >= FORMS, "every form was replaced"
    fresh = sum(one not in rounds[:at] for at, one in enumerate(rounds))
    assert fresh <= 2 * FORMS + 1, "most uses draw nothing"


def test_a_new_reply_takes_the_place_of_the_old_one() -> None:
    cache = make_cache()
    for number in range(3):
        cache.put(b"q", make_form(number=number), (Found(),), None, 1)
    size = cache.size_bytes
    assert cache.get(b"q") == make_form(number=2)
    assert len(cache) == 1
    cache.put(b"q", make_form(), (Found(),), None, 1)
    assert cache.size_bytes == size


def test_the_number_of_replies_is_bounded_and_those_in_use_stay() -> None:
    cache = make_cache(entries=10)
    cache.put(b"hot", make_form(), (Found(),), None, 1)
    for number in range(1000):
        assert cache.get(b"hot") is not None
        cache.put(b"cold%d" % number, make_form(), (Found(),), None, 1)
        assert len(cache) <= 10


def test_the_bytes_of_replies_are_bounded_as_their_forms_grow() -> None:
    cache = make_cache(kilobytes=256)
    for number in range(40):
        key = b"q%d" % number
        cache.put(key, make_form(4000), (Found(),), numbered(4000), 3)
        for _ in range(50):
            cache.get(key)
        assert cache.size_bytes <= 256 * 1024
    assert len(cache) > 1


def test_a_reply_too_large_to_share_the_room_is_not_kept() -> None:
    cache = make_cache(kilobytes=64)
    cache.put(b"q", make_form(60_000), (Found(),), None, 1)
    assert cache.get(b"q") is None
    assert cache.size_bytes == 0


def test_bytes_are_counted_back_when_everything_goes() -> None:
    cache, sources = make_cache(), [Found() for _ in range(20)]
    for number, source in enumerate(sources):
        cache.put(b"q%d" % number, make_form(), (source,), numbered(number), 3)
        for _ in range(3 * FORMS):
            cache.get(b"q%d" % number)
    for number, source in enumerate(sources):
        source.live = False
        assert cache.get(b"q%d" % number) is None
    assert cache.size_bytes == 0
