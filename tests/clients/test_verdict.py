"""How the runs of other people's suites are judged."""

from __future__ import annotations

import pytest
from clients.run import judge, read_unsupported


def test_declared_failures_are_no_fault_and_everything_else_is() -> None:
    outcomes = {"a": "passed", "b": "failed", "c": "failed", "d": "not run", "e": "skipped"}
    assert judge(outcomes, {"b": "later"}, whole=True) == [
        "FAILED: c (failed)",
        "FAILED: d (not run)",
        "FAILED: e (skipped)",
    ]


def test_the_list_of_declared_failures_can_only_shrink() -> None:
    faults = judge({"a": "passed"}, {"a": "later", "gone": "later"}, whole=True)
    assert [fault.split(":")[0] for fault in faults] == ["PASSES", "NO SUCH TEST"]
    assert judge({"b": "passed"}, {"a": "later"}, whole=False) == []


def test_every_declaration_has_a_reason() -> None:
    assert read_unsupported("# why\n\nx.py::t: no sessions: yet\n") == {"x.py::t": "no sessions: yet"}
    with pytest.raises(ValueError, match="needs `test: reason`"):
        read_unsupported("x.py::t\n")
