"""The daemon as a whole: each setting has its effect, a reload is all or nothing, the figures are fed."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
from prometheus_client.parser import text_string_to_metric_families
from support.cluster import Agent, free_ports
from support.one_agent import CLIENT, PATIENCE_S, an_agent, ended, logged, running, until

from gemot.agent.metrics import TABLE


def ask(
    agent: Agent, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, str]:
    """Status, headers and text of any answer."""
    request = urllib.request.Request(f"http://{agent.http}{path}", body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def look_up(agent: Agent, name: str) -> dns.message.Message:
    question = dns.message.make_query(name, dns.rdatatype.A)
    return dns.query.udp(question, "127.0.0.1", port=agent.ports["dns"], timeout=PATIENCE_S)


# -- reload ------------------------------------------------------------------------------------------

WORDS = ("one", "second")


def speaking(folder: Path, word: str) -> dict[str, Any]:
    """A configuration in which everything that a reload takes up tells `word`."""
    return {
        "services": [{"name": word, "port": 80}],
        "checks": [{"id": word, "name": word, "ttl": "10m"}],
        "templates": [{"contents": word, "destination": str(folder / "out")}],
        "log_level": "DEBUG" if word == "second" else "INFO",
        "http_config": {"response_headers": {"X-Word": word}, "allowed_hosts": [f"{word}.Example.com"]},
        "dns_config": {"node_ttl": f"{len(word)}s"},
        "limits": {"kv_max_value_size": len(word), "txn_max_ops": len(word)},
        "discard_check_output": word == "second",
    }


def heard(agent: Agent, folder: Path) -> set[str]:
    """Which words the running agent tells, wherever one is told."""
    browser = {"Accept-Language": "en"}
    found = {*agent.get("/v1/agent/services"), *agent.get("/v1/agent/checks"), (folder / "out").read_text()}
    found.add(ask(agent, "GET", "/v1/agent/version")[1]["X-Word"])
    answer = look_up(agent, "n1.node.consul.").answer
    found.add(next((word for word in WORDS if answer and answer[0].ttl == len(word)), "no TTL of ours"))
    for word in WORDS:
        there = browser | {"Host": f"{word}.example.com"}
        if ask(agent, "GET", "/v1/agent/version", headers=there)[0] == 200:
            found.add(word)
    # The longest value that is taken is as long as the word.
    found.add("second" if ask(agent, "PUT", "/v1/kv/x", b"v" * 6)[0] == 200 else "one")
    if ask(agent, "PUT", "/v1/kv/x", b"v" * 7)[0] == 200:
        found.add("no limit of ours")
    # So is the longest transaction.
    look = {"KV": {"Verb": "get-or-empty", "Key": "x"}}
    found.add("second" if ask(agent, "PUT", "/v1/txn", json.dumps([look] * 6).encode())[0] == 200 else "one")
    if ask(agent, "PUT", "/v1/txn", json.dumps([look] * 7).encode())[0] == 200:
        found.add("no limit of ours")
    for word in {*agent.get("/v1/agent/checks")}:
        agent.put(f"/v1/agent/check/pass/{word}", note="noted")
        found.add("one" if agent.get("/v1/agent/checks")[word]["Output"] == "noted" else "second")
    return found


def quiet(agent: Agent) -> bool:
    """Whether the log has no line of the level DEBUG."""
    return "[DEBUG]" not in agent.log.read_text()


def test_a_reload_takes_up_all_that_it_says_it_does(tmp_path: Path) -> None:
    with running(tmp_path, **speaking(tmp_path, "one")) as agent:
        until(
            agent, lambda: (tmp_path / "out").exists() and look_up(agent, "n1.node.consul.").answer, "a start"
        )
        assert heard(agent, tmp_path) == {"one"}
        assert quiet(agent)
        agent.write_config(**speaking(tmp_path, "second"))
        agent.signal(signal.SIGHUP)
        logged(agent, "agent: configuration reloaded")
        until(agent, lambda: (tmp_path / "out").read_text() == "second", "the other template")
        assert heard(agent, tmp_path) == {"second"}
        assert not quiet(agent)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a value out of bounds": ({"ports": {"http": 70000}}, "ports.http"),
    "a template that is none": ({"templates": [{"contents": "{{ x", "destination": "/tmp/x"}]}, "templates"),
    "a check of nobody": ({"checks": [{"id": "c", "name": "c", "ttl": "1m", "service_id": "gone"}]}, "gone"),
}


def test_a_reload_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with running(tmp_path, **speaking(tmp_path, "one")) as agent:
        until(
            agent, lambda: (tmp_path / "out").exists() and look_up(agent, "n1.node.consul.").answer, "a start"
        )
        for wrong, (change, named) in BROKEN.items():
            agent.write_config(**{"ports": agent.ports} | speaking(tmp_path, "second") | change)
            status, _, text = ask(agent, "PUT", "/v1/agent/reload")
            assert (status, named in text) == (500, True), f"{wrong}: {text}"
            assert heard(agent, tmp_path) == {"one"}, wrong
        agent.signal(signal.SIGHUP)
        logged(agent, "configuration not reloaded, all stays as it was")
        assert heard(agent, tmp_path) == {"one"}
        assert quiet(agent)
        agent.write_config(**speaking(tmp_path, "one") | {"dns_config": {"node_ttl": "3s"}})
        assert ask(agent, "PUT", "/v1/agent/reload")[0] == 200


def test_a_reload_says_what_waits_for_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as agent:
        agent.write_config(
            node_meta={"rack": "7"}, max_query_time="700s", http_config={"response_headers": {"X-A": "b"}}
        )
        status, headers, text = ask(agent, "PUT", "/v1/agent/reload")
        assert (status, text) == (200, "")
        assert headers["X-Gemot-Applied"] == "http_config.response_headers"
        assert headers["X-Gemot-Needs-Restart"] == "node_meta, max_query_time"
        logged(agent, "needs a restart to take effect: node_meta, max_query_time")


def test_the_limit_of_connections_is_taken_up(tmp_path: Path) -> None:
    with running(tmp_path) as agent, socket.create_connection(("127.0.0.1", agent.ports["http"])):
        assert ask(agent, "GET", "/v1/agent/version")[0] == 200
        agent.write_config(limits={"http_max_conns_per_client": 1})
        agent.signal(signal.SIGHUP)
        logged(agent, "agent: configuration reloaded: applied=limits.http_max_conns_per_client")
        assert "limits.http_max_conns_per_client" in _refusal(agent)


def _refusal(agent: Agent) -> str:
    with socket.create_connection(("127.0.0.1", agent.ports["http"])) as extra:
        extra.settimeout(PATIENCE_S)
        return extra.recv(4096).decode()


# -- settings ----------------------------------------------------------------------------------------


def test_a_blocking_read_waits_as_long_as_the_configuration_says(tmp_path: Path) -> None:
    """Without the settings each of these would wait for minutes."""
    with running(tmp_path, default_query_time="1s", max_query_time="1s") as agent:
        for path in ("/v1/kv/none", "/v1/catalog/nodes", "/v1/health/service/web?cached"):
            index = ask(agent, "GET", path)[1]["X-Consul-Index"]
            mark = "&" if "?" in path else "?"
            for wait in ("", "&wait=5m"):
                after = ask(agent, "GET", f"{path}{mark}index={int(index) + 1000}{wait}")[1]["X-Consul-Index"]
                assert int(after) >= int(index)


def test_a_first_cached_read_is_held_and_fails_as_any_other(tmp_path: Path) -> None:
    why = "No known server answers: waiting for servers: none is known yet"
    more = {"data_dir": str(tmp_path / "data"), "performance": {"rpc_hold_timeout": "1s"}}
    with ended(an_agent(tmp_path, program=CLIENT, **more)) as agent:
        agent.start()
        until(agent, lambda: agent.get("/v1/agent/self"), "it answers")
        for cached in ("", "?cached", "?cached"):
            status, _, text = ask(agent, "GET", f"/v1/health/service/web{cached}")
            assert (status, text[: len(why)]) == (500, why)


def test_output_of_checks_registered_over_http_is_cut_where_the_configuration_says(tmp_path: Path) -> None:
    with running(tmp_path, check_output_max_size=16) as agent:
        agent.put("/v1/agent/check/register", {"Name": "c", "TTL": "10m"})
        agent.put("/v1/agent/check/pass/c", note="x" * 100)
        assert agent.get("/v1/agent/checks")["c"]["Output"].startswith("x" * 16 + " ...")


def test_the_meta_of_the_node_reaches_the_catalog(tmp_path: Path) -> None:
    with running(tmp_path, node_meta={"rack": "7"}) as agent:
        node = until(agent, lambda: agent.get("/v1/catalog/nodes"), "the node")[0]
        assert node["Meta"]["rack"] == "7"
        assert agent.get("/v1/agent/self")["Meta"]["rack"] == "7"


def test_the_zone_is_the_one_of_the_configuration_wherever_it_is_told(tmp_path: Path) -> None:
    web = {"name": "web", "port": 80, "check": {"id": "w", "ttl": "10m", "status": "warning"}}
    settings = {"domain": "corp.example", "dns_config": {"only_passing": True}}
    with running(tmp_path, services=[web], **settings) as agent:
        until(agent, lambda: agent.get("/v1/catalog/service/web"), "the service")
        assert look_up(agent, "n1.node.corp.example.").answer
        why = agent.get("/v1/gemot/why/service/web")
        assert "web.service.corp.example" in why["DNS"]
        assert why["Instances"][0]["InDNS"] is False


def test_one_address_holds_no_more_rpc_connections_than_allowed(tmp_path: Path) -> None:
    with running(tmp_path, limits={"rpc_max_conns_per_client": 2}) as agent:
        held = [socket.create_connection(("127.0.0.1", agent.ports["server"]), PATIENCE_S) for _ in range(3)]
        assert held[2].recv(1) == b"", "closed"
        for one in held:
            one.close()
        logged(agent, "limits.rpc_max_conns_per_client")


def test_a_connection_without_a_hello_is_ended(tmp_path: Path) -> None:
    with (
        running(tmp_path, limits={"rpc_handshake_timeout": "100ms"}) as agent,
        socket.create_connection(("127.0.0.1", agent.ports["server"])) as silent,
        socket.create_connection(("127.0.0.1", agent.ports["serf_lan"])) as other,
    ):
        for one in (silent, other):
            one.settimeout(PATIENCE_S)
            assert one.recv(1) == b"", "closed"


def test_an_agent_that_joins_nobody_gives_up_when_it_is_told_to(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_ports('127.0.0.1')['serf_lan']}"
    joining = {"retry_join": [nobody], "retry_interval": "100ms", "retry_max": 2}
    agent = an_agent(tmp_path, program=CLIENT, **joining)
    with ended(agent):
        agent.start()
        assert agent.wait(PATIENCE_S) == 1
    assert "No server could be joined in 2 tries, one each 0.1 s (retry_max)" in agent.tail()
    assert f"{nobody} refused" in agent.tail()


# -- figures -----------------------------------------------------------------------------------------


def figures(agent: Agent) -> dict[str, float]:
    """Every sample of the text form, by name and labels."""
    text = ask(agent, "GET", "/v1/agent/metrics?format=prometheus")[2]
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_of_the_table_is_fed_on_a_server_and_none_is_beside_it(tmp_path: Path) -> None:
    template = {"contents": "x", "destination": str(tmp_path / "out")}
    check = {"name": "c", "ttl": "10m"}
    with running(tmp_path, services=[{"name": "web"}], checks=[check], templates=[template]) as agent:
        look_up(agent, "n1.node.consul.")
        names = {metric.name for metric in TABLE}

        def all_fed() -> bool:
            shown = {key.partition(" ")[0] for key in figures(agent)}
            families = {
                one.removesuffix("_count").removesuffix("_bucket").removesuffix("_sum") for one in shown
            }
            return families == names

        until(agent, all_fed, "every metric")
        until(agent, lambda: figures(agent)["gemot_template_writes_total"] == 1, "the rendered template")
        until(agent, lambda: figures(agent)["gemot_raft_leader_changes_total"] == 1, "the leader counted")

        def all_applied() -> bool:
            now = figures(agent)
            return now["gemot_raft_applied_index"] == now["gemot_raft_last_log_index"] > 0

        until(agent, all_applied, "the end of its own entries")
        now = figures(agent)
        assert now["gemot_raft_is_leader"] == now["gemot_cluster_reachable"] == now["gemot_servers"] == 1
        assert now["gemot_services"] == now["gemot_checks critical"] == 1
        assert now["gemot_templates up_to_date"] == 1
        assert now["gemot_http_connections"] >= 1
        assert now["gemot_raft_log_syncs_total"] > 0
        shown = agent.get("/v1/agent/metrics")
        told = {row["Name"] for kind in ("Gauges", "Counters", "Samples") for row in shown[kind]}
        assert told <= names
        assert {metric.name for metric in TABLE if metric.kind == "gauge"} <= told


def test_waiting_reads_are_counted_while_they_wait(tmp_path: Path) -> None:
    with running(tmp_path) as agent, socket.create_connection(("127.0.0.1", agent.ports["http"])) as one:
        index = ask(agent, "GET", "/v1/kv/x")[1]["X-Consul-Index"]
        before = figures(agent)
        one.sendall(f"GET /v1/kv/x?index={index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(agent, lambda: figures(agent)["gemot_watches"] == before["gemot_watches"] + 1, "the waiter")
        agent.put("/v1/kv/x", b"1")
        woken = "gemot_watch_wakeups_total"
        until(agent, lambda: figures(agent)[woken] > before[woken], "its waking")
        until(agent, lambda: figures(agent)["gemot_watches"] == before["gemot_watches"], "its end")


def test_what_push_watches_hold_is_counted_while_they_do(tmp_path: Path) -> None:
    held = "gemot_watch_held_bytes"
    with running(tmp_path) as agent, socket.create_connection(("127.0.0.1", agent.ports["http"])) as one:
        agent.put("/v1/kv/x", bytes(100_000))
        assert figures(agent)[held] == 0
        one.sendall(b"GET /v1/gemot/watch?key=x HTTP/1.1\r\nHost: x\r\n\r\n")
        until(agent, lambda: figures(agent)["gemot_watch_followers"] == 1, "the reader")
        assert figures(agent)[held] > 100_000


def test_a_client_agent_shows_what_it_has_and_no_figure_of_a_server(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        join = [f"127.0.0.1:{server.ports['serf_lan']}"]
        with running(tmp_path, program=CLIENT, node_name="n2", retry_join=join) as client:
            until(client, lambda: figures(client)["gemot_servers"] == 1, "the server")
            until(client, lambda: figures(client)["gemot_sync_rounds_total full ok"] >= 1, "a round of sync")
            until(client, lambda: figures(client)["gemot_loop_lag_seconds_count"] > 0, "the lag of its loop")
            until(server, lambda: figures(server)["gemot_rpc_connections"] == 1, "the client's connection")
            assert not [name for name in figures(client) if name.startswith("gemot_raft_applied")]
            server.stop()
            until(client, lambda: figures(client)["gemot_cluster_reachable"] == 0, "the loss noticed")
