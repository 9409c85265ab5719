"""Settings: which TTL holds for a service, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from gemot.dns.config import DnsConfig, Soa
from gemot.server.model.errors import BadRequest

TTLS = {"web": 1, "web*": 2, "web-a*": 3, "*": 4, "Db": 5}


@pytest.mark.parametrize(
    ("service", "ttl_s"),
    [("web", 1), ("WEB", 1), ("web-b", 2), ("web-a", 3), ("web-abc", 3), ("cache", 4), ("db", 5), ("dbx", 4)],
)
def test_an_exact_ttl_wins_and_then_the_longest_prefix(service: str, ttl_s: int) -> None:
    assert DnsConfig(service_ttl_s=TTLS).service_ttl(service) == ttl_s


def test_without_a_matching_ttl_answers_are_not_kept() -> None:
    assert DnsConfig(service_ttl_s={"web": 9}).service_ttl("db") == 0


def test_zones_are_lower_case_and_the_longest_comes_first() -> None:
    config = DnsConfig(domain="Consul.", alt_domain="corp.Example")
    assert config.zones() == (("corp", "example"), ("consul",))
    assert DnsConfig(domain="consul", alt_domain="consul.").zones() == (("consul",),)


@pytest.mark.parametrize(("limit", "answers"), [(0, 8), (1, 1), (3, 3), (8, 8), (9, 8)])
def test_without_edns_never_more_than_eight_answers(limit: int, answers: int) -> None:
    assert DnsConfig(udp_answer_limit=limit).answers_without_edns() == answers


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"domain": ""}, "domain"),
        ({"domain": "."}, "domain"),
        ({"domain": "a..b."}, "domain"),
        ({"domain": "x" * 129}, "the limit is 128"),
        ({"domain": "x" * 64}, "1 to 63"),
        ({"alt_domain": "-x"}, "alt_domain"),
        ({"node_ttl_s": -1}, "dns_config.node_ttl"),
        ({"service_ttl_s": {"web": 2**31}}, "dns_config.service_ttl['web']"),
        ({"soa": Soa(min_ttl_s=-5)}, "dns_config.soa.min_ttl"),
        ({"udp_answer_limit": -1}, "dns_config.udp_answer_limit"),
        ({"a_record_limit": -1}, "dns_config.a_record_limit"),
    ],
)
def test_a_setting_out_of_bounds_is_named_in_the_refusal(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        DnsConfig(**settings)
    assert words in refused.value.message
