"""Jepsen's lock-set on real processes: some seconds in CI, `make lock-set-live SECONDS=600` for more."""

from __future__ import annotations

import pytest
from cluster.lock_set import CHECKED, GUARDED, UNFENCED, LockSet, Result
from support.session_cluster import session_cluster

SECONDS = 5.0
STOPS = 2


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    with session_cluster(tmp_path_factory.mktemp("lock-set")) as cluster:
        return LockSet(cluster, seed=1).run(SECONDS, stops=STOPS)


@pytest.mark.parametrize("way", [CHECKED, GUARDED])
def test_what_showed_its_fence_is_in_the_set(result: Result, way: str) -> None:
    assert result.ways[way].told > 0, result
    assert result.ways[way].lost == 0, result


def test_holders_were_late_and_a_plain_write_of_theirs_took_others_with_it(result: Result) -> None:
    """Without it the above would show nothing."""
    assert result.together > 0, result
    assert sum(result.ways[way].refused for way in (CHECKED, GUARDED)) > 0, result
    assert result.ways[UNFENCED].lost > 0, result
