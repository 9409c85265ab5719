"""Explanations: what keeps an instance out of the answers, and a template from being written."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from support.local_servers import local_servers

from gemot.agent.age import FRESH_MS, NEVER_MS, age_ms
from gemot.agent.template.runner import TemplateStatus
from gemot.agent.why import Why, explain_service, explain_template, nearest_names
from gemot.server.consensus import NEVER_MS as SERVERS_NEVER_MS
from gemot.server.model.catalog import SERF_HEALTH, Instance, Node, Register, Service
from gemot.server.model.errors import Unavailable
from gemot.server.model.health import Check, Status

WEB = Service("web", "web", port=80)


def instance(*checks: Check, node: str = "web1", id: str = "web", port: int = 80) -> Instance:
    return Instance(Node(node, "10.0.0.4"), Service(id, "web", port=port), checks)


def alive(status: Status = "passing") -> Check:
    return Check("web1", SERF_HEALTH, "Serf Health Status", status, modify_index=7)


def check(status: Status, output: str = "", check_id: str = "service:web", notes: str = "") -> Check:
    return Check(
        "web1", check_id, "Web", status, notes=notes, output=output, service_id="web", modify_index=9
    )


def lines(*instances: Instance, **options: Any) -> list[str]:
    return list(explain_service("web", instances, **options).explanation)


def test_a_failing_check_is_named_with_its_output() -> None:
    told = lines(instance(alive(), check("critical", "HTTP GET http://10.0.0.4/: 503\n")))
    assert told == [
        'web on web1 (10.0.0.4:80) is left out: check "service:web" is critical (since index 9): '
        "HTTP GET http://10.0.0.4/: 503",
        "DNS: web.service.consul has no healthy instance (NXDOMAIN)",
    ]


def test_a_healthy_instance_is_in_the_answers() -> None:
    assert lines(instance(alive(), check("passing"))) == [
        "web on web1 (10.0.0.4:80) is in the answers: all its 2 checks are passing",
        "DNS: web.service.consul answers 1 of 1 instances: 10.0.0.4",
    ]
    assert "it has no checks" in lines(instance())[0]


def test_a_warning_is_in_dns_unless_only_passing_counts() -> None:
    warned = instance(alive(), check("warning", "slow"))
    assert "is in DNS answers, left out of passing-only ones" in lines(warned)[0]
    assert "is left out" in lines(warned, only_passing=True)[0]
    (row,) = explain_service("web", [warned]).instances
    assert (row.in_dns, row.in_passing, row.node_alive) == (True, False, True)


def test_a_dead_host_and_maintenance_are_told_in_words() -> None:
    assert "no live agent is seen on web1 (since index 7)" in lines(instance(alive("critical")))[0]
    node = check("critical", check_id="_node_maintenance", notes="disk swap")
    assert "node web1 is in maintenance (disk swap)" in lines(instance(node))[0]
    own = check("critical", check_id="_service_maintenance:web")
    assert "the instance is in maintenance" in lines(instance(own))[0]


def test_every_reason_is_told() -> None:
    (told, _) = lines(instance(check("warning", "b", "second"), alive("critical"), check("critical", "a")))
    assert "no live agent" in told
    assert '"service:web" is critical' in told
    assert told.endswith('; besides, check "second" is warning (since index 9): b'), "that alone would not"


def test_long_output_is_cut_and_lines_are_joined() -> None:
    (told, _) = lines(instance(check("critical", "a\nb\n" + "x" * 10_000)))
    assert ": a b xxx" in told
    assert told.endswith("...")
    assert len(told) < 500


def test_an_ipv6_address_and_an_id_of_its_own_are_shown() -> None:
    row = Instance(Node("n", "10.0.0.1"), Service("web-2", "web", address="2001:db8::1", port=80), ())
    assert lines(row)[0].startswith("web-2 on n ([2001:db8::1]:80) is in")


def test_a_name_that_is_not_there_is_told_with_names_like_it() -> None:
    told = explain_service("wbe", (), names=["web", "Web-api", "db", "consul"])
    assert not told.exists
    assert told.nearest == ("web",)
    assert told.explanation[0] == "No instance of wbe is registered anywhere; near it: web"
    assert told.explanation[-1] == "DNS: wbe.service.consul does not exist (NXDOMAIN)"
    assert nearest_names("WEB-API", ["web-api", "db"]) == ("web-api",)


def test_it_reads_what_there_is_even_without_a_leader() -> None:
    async def work() -> None:
        with local_servers() as servers:
            await servers.apply(
                Register(
                    Node("web1", "10.0.0.4"), (Service("web", "web", port=80),), (alive(), check("passing"))
                )
            )
            servers.leads = False
            why = Why(servers=servers, domain="example.")
            told = await why.service("web")
            assert told.dns == "web.service.example answers 1 of 1 instances: 10.0.0.4"
            assert (await why.service("wep")).nearest == ("web",)
            servers.failure = Unavailable("nobody is here")
            with pytest.raises(Unavailable):
                await why.service("web")

    asyncio.run(work())


def test_the_agent_asked_tells_what_its_own_checks_say_now() -> None:
    """The servers may hear of another output five minutes later."""
    own = {
        "service:web": check("critical", "timed out"),
        "other": check("passing", "fine by now", "other"),
    }

    async def work() -> None:
        with local_servers() as servers:
            for name in ("web1", "web2"):
                checks = (check("critical", "refused"), check("warning", "hot", "other"))
                checks = tuple(msgspec.structs.replace(one, node=name) for one in checks)
                await servers.apply(Register(Node(name, "10.0.0.4", f"id-{name}"), (WEB,), checks))
            why = Why(servers=servers, node_id="id-web1", checks=lambda: own)
            told = await why.service("web")
            outputs = {(row.node, one.check_id): one.output for row in told.instances for one in row.failing}
            assert outputs == {
                ("web1", "service:web"): "timed out",
                ("web1", "other"): "hot",
                ("web2", "service:web"): "refused",
                ("web2", "other"): "hot",
            }, "where the answers go by another status, its output is told"

    asyncio.run(work())


def status(**given: Any) -> TemplateStatus:
    fields: dict[str, Any] = {
        "source": "/t.j2",
        "destination": "/etc/x",
        "waiting_for": (),
        "error": "",
        "rendered_at": 0.0,
        "written_at": 0.0,
        "writes": 0,
        "failures": 0,
        "pending_command": (),
        "command_error": "",
    }
    return TemplateStatus(**(fields | given))


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (12_400, "as of 12 s ago, when a leader was heard last"),
        (NEVER_MS + 5, "of unknown age, since the server asked has heard no leader since it started"),
    ],
)
def test_an_old_explanation_says_how_old_it_is(age: int, words: str) -> None:
    told = explain_service("web", [instance(alive())], age_ms=age)
    assert told.age_ms == age
    assert told.explanation[-1] == f"All this is {words}: it may be otherwise by now, see gemot status"
    assert explain_service("web", [instance(alive())]).explanation[-1].startswith("DNS: ")


def test_a_service_is_explained_with_the_age_of_what_was_read() -> None:
    async def work() -> None:
        with local_servers() as servers:
            assert (await Why(servers=servers).service("web")).age_ms == 0
            servers.leads = False
            assert (await Why(servers=servers).service("web")).age_ms > 0

    asyncio.run(work())


def test_the_age_of_an_answer_is_told_only_when_no_leader_stands_behind_it() -> None:
    assert NEVER_MS == SERVERS_NEVER_MS
    assert age_ms(FRESH_MS, known_leader=True) == 0
    assert age_ms(FRESH_MS + 1, known_leader=True) == FRESH_MS + 1
    assert age_ms(0, known_leader=False) == 1


def test_a_template_of_old_values_says_how_old_they_are() -> None:
    told = explain_template(status(rendered_at=60.0, age_s=12.4))
    assert (told.state, told.age_ms) == ("up to date", 12_400)
    assert told.explanation.endswith("; its values are as of 12 s ago, when a leader was heard last")


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ({}, "waiting", "has not been rendered yet"),
        ({"waiting_for": ("key a (it does not exist)",)}, "waiting", "waits for key a (it does not exist)"),
        ({"error": "/t.j2:3: bad", "failures": 4, "written_at": 60.0}, "failed", "/t.j2:3: bad (4 failures"),
        ({"error": "e", "written_at": 60.0}, "failed", "the file is as of 1970-01-01T00:01:00Z"),
        ({"rendered_at": 60.0, "written_at": 60.0}, "up to date", "written 1970-01-01T00:01:00Z"),
        ({"rendered_at": 60.0}, "up to date", "unchanged since the start"),
        (
            {"rendered_at": 60.0, "pending_command": ("systemctl", "reload", "x"), "command_error": "exit 1"},
            "command owed",
            "still owed: systemctl reload x, which failed: exit 1",
        ),
    ],
)
def test_a_template_is_explained(given: dict[str, Any], state: str, words: str) -> None:
    told = explain_template(status(**given))
    assert told.state == state
    assert words in told.explanation
    assert told.explanation.startswith("/etc/x ")


def test_templates_are_found_by_destination_and_source() -> None:
    other = status(source="/u.j2", destination="/etc/y")

    async def work() -> None:
        with local_servers() as servers:
            why = Why(servers=servers, templates=lambda: [status(), other])
            assert [one.destination for one in why.templates()] == ["/etc/x", "/etc/y"]
            assert [one.destination for one in why.templates("/etc/y")] == ["/etc/y"]
            assert [one.destination for one in why.templates("/t.j2")] == ["/etc/x"]
            assert why.templates("/nowhere") == []

    asyncio.run(work())
