"""Hand-overs of a lock as a third process sees them: a few in CI, `make handover KILLS=500` for more."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.handover import Campaign, HandOver
from support.session_cluster import session_cluster

TTL_S = 4.0
"""Long enough that a lock is seldom lost without a fault, on a busy machine too."""

KINDS = ("kill", "stop", "host")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder: Path = tmp_path_factory.mktemp("handover")
    with session_cluster(folder / "cluster") as cluster:
        campaign = Campaign(cluster, folder, lanes=len(KINDS), seed=1, ttl_s=TTL_S)
        campaign.run(2 * len(KINDS), kinds=KINDS)
    return campaign


def _of(campaign: Campaign, kind: str) -> list[HandOver]:
    return [each for each in campaign.done if each.kind == kind]


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_two_are_never_inside_together_while_their_hosts_run(campaign: Campaign, kind: str) -> None:
    assert [each.both for each in _of(campaign, kind)] == [False, False]
    assert campaign.overlaps == 0


def test_the_command_of_a_host_that_stands_still_is_inside_with_a_smaller_fence(campaign: Campaign) -> None:
    """The recorder can see two at once. That each fence is greater than the one before, `Lane` holds."""
    assert [each.both for each in _of(campaign, "host")] == [True, True]
