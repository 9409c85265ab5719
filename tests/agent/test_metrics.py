"""The figures: one table of names, two forms of the same numbers."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gemot.agent.metrics import TABLE, Metrics, watch_process


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_names_are_ours_unique_and_end_in_their_unit() -> None:
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names)
    for metric in TABLE:
        assert re.fullmatch(r"gemot_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert (metric.kind == "counter") == metric.name.endswith("_total")


def test_counts_and_observations_show_in_the_text_form() -> None:
    metrics = Metrics()
    metrics.count("gemot_dns_queries_total", ("A", "NOERROR"))
    metrics.count("gemot_dns_queries_total", ("A", "NOERROR"), 2)
    metrics.observe("gemot_http_request_seconds", 0.003, ("GET", "/v1/kv/"))
    metrics.gauge("gemot_watches", lambda: 7)
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}
    samples = {sample.name: sample for sample in families["gemot_dns_queries"].samples}
    assert samples["gemot_dns_queries_total"].value == 3
    assert samples["gemot_dns_queries_total"].labels == {"type": "A", "rcode": "NOERROR"}
    seconds = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in families["gemot_http_request_seconds"].samples
    }
    assert seconds[("gemot_http_request_seconds_bucket", "0.0025")] == 0
    assert seconds[("gemot_http_request_seconds_bucket", "0.005")] == 1
    assert seconds[("gemot_http_request_seconds_count", None)] == 1
    assert families["gemot_watches"].samples[0].value == 7


def test_a_gauge_that_nobody_supplies_is_not_shown_as_zero() -> None:
    text = Metrics().text().decode()
    assert "gemot_raft_is_leader" not in text


def test_a_gauge_is_read_when_looked_at_and_may_be_handed_in_anew() -> None:
    metrics = Metrics()
    metrics.gauge("gemot_checks", lambda: 1, ("passing",))
    metrics.gauge("gemot_checks", lambda: 2, ("passing",))
    metrics.gauge("gemot_checks", lambda: 3, ("critical",))
    assert b'gemot_checks{status="passing"} 2.0' in metrics.text()
    assert b'gemot_checks{status="critical"} 3.0' in metrics.text()


def test_the_json_form_tells_the_last_whole_interval_as_consul_does() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    for value in (1.0, 2.0, 3.0):
        metrics.observe("gemot_loop_lag_seconds", value)
    metrics.count("gemot_watch_wakeups_total", (), 20)
    before = metrics.summary()
    assert before["Samples"] == []
    clock.now += 10
    after = metrics.summary()
    assert list(after) == ["Timestamp", "Gauges", "Points", "Counters", "Samples"]
    (sample,) = after["Samples"]
    assert sample == {
        "Name": "gemot_loop_lag_seconds",
        "Count": 3,
        "Rate": 0.6,
        "Sum": 6.0,
        "Min": 1.0,
        "Max": 3.0,
        "Mean": 2.0,
        "Stddev": 1.0,
        "Labels": {},
    }
    (counter,) = after["Counters"]
    assert (counter["Count"], counter["Sum"], counter["Rate"]) == (1, 20, 2.0)
    clock.now += 10
    assert metrics.summary()["Samples"] == []


def test_an_interval_that_nobody_looked_at_is_not_told_later() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.observe("gemot_loop_lag_seconds", 1.0)
    clock.now += 35
    metrics.observe("gemot_loop_lag_seconds", 1.0)
    assert metrics.summary()["Samples"] == []


@pytest.mark.parametrize("name", ["gemot_nope", "consul_raft_leader"])
def test_a_name_that_is_not_in_the_table_is_a_mistake_of_ours(name: str) -> None:
    with pytest.raises(KeyError):
        Metrics().count(name)


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    one, two = Metrics(), Metrics()
    one.count("gemot_watch_wakeups_total")
    assert b"gemot_watch_wakeups_total 0.0" in two.text()


def test_a_gauge_that_fails_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.gauge("gemot_watches", lambda: 1 // 0)
    metrics.gauge("gemot_views", lambda: 3)
    assert b"gemot_watches NaN" in metrics.text()
    assert b"gemot_views 3.0" in metrics.text()
    assert metrics.summary()["Gauges"][0]["Value"] == 3.0
    assert "A gauge cannot be read" in caplog.text


def test_the_process_is_watched() -> None:
    metrics = Metrics()
    watch_process(metrics)
    found = {row["Name"]: row["Value"] for row in metrics.summary()["Gauges"]}
    assert found["gemot_process_resident_bytes"] > 1_000_000
    assert found["gemot_process_open_files"] > 2
