"""gemot-config(5) names every key there is and no other, and all it says of one is so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec import inspect
from support.config_files import loaded, write
from support.manual_pages import committed, module, section, terms

from gemot.agent import check_registration, registration
from gemot.agent.config import document
from gemot.agent.config.decode import decode
from gemot.agent.config.known import KNOWN
from gemot.agent.config.merge import overlay
from gemot.agent.config.reload import difference
from gemot.agent.config.schema import Config
from gemot.agent.fields import Mistakes

MADE = module("config_page")
PAGE = committed("gemot-config.5")
EXAMPLES = [
    text for text in module("roff").examples(MADE.SOURCE.read_text()) if not text.startswith("gemot validate")
]


def walk(kind: type[msgspec.Struct], at: str = "") -> Iterator[tuple[str, inspect.Field]]:
    """Every leaf of the schema, by another way than the page's own."""
    for field in cast(inspect.StructType, inspect.type_info(kind)).fields:
        if isinstance(field.type, inspect.StructType):
            yield from walk(field.type.cls, f"{at}{field.encode_name}.")
        else:
            yield at + field.encode_name, field


KEYS = {path: field for path, field in walk(Config) if path != "dev_mode"}


def entry(path: str) -> str:
    """What the page says of a key: type, limits, default, reload, words, example."""
    return section(PAGE, "KEYS").split(f"\\fB{path}\\fR\n", 1)[1].split(".TP\n")[0]


def read(text: str) -> Any:
    return decode(document.parse(text.encode(), "yaml"), "page")


def test_the_page_names_every_key_and_no_other() -> None:
    assert terms(section(PAGE, "KEYS")) == list(KEYS)


@pytest.mark.parametrize("path", KEYS)
def test_the_limits_of_a_key_are_those_of_the_schema(path: str) -> None:
    kind = KEYS[path].type
    if isinstance(kind, inspect.IntType):
        assert f"whole number, {kind.ge} to {kind.le}" in entry(path)
    elif isinstance(kind, inspect.FloatType):
        low, high = entry(path).split("duration, ")[1].split(";")[0].split(",")[0].split(" to ")
        assert read_duration(low) == kind.ge
        assert read_duration(high) == kind.le


def read_duration(text: str) -> float:
    return float(read(f"check_update_interval: {text}").values["check_update_interval_s"])


@pytest.mark.parametrize("path", KEYS)
def test_the_default_of_a_key_is_what_an_agent_has_that_is_told_nothing(path: str) -> None:
    told = entry(path).split("; default ")[1].split("; ")[0]
    names = path.split(".")
    text = told
    for name in reversed(names):
        text = f"{name}: {text}" if name == names[-1] else f"{name}: {{{text}}}"
    found = read(text)
    assert found.faults == ()
    default, given = msgspec.to_builtins(Config()), msgspec.to_builtins(overlay(Config(), found.values))
    assert given == default


@pytest.mark.parametrize("path", KEYS)
def test_the_example_of_a_key_sets_it_and_the_page_says_what_a_reload_does(path: str) -> None:
    example = entry(path).split(".nf\n")[1].split("\n.fi")[0]
    found = read(example)
    assert (found.faults, found.warnings) == ((), ())
    if found.stanzas:  # what they become is read by others; that they differ is all that matters here
        values: dict[str, Any] = {path: ("anything",)}
    else:
        assert list(found.given) == [path]
        values = found.values
    changed = difference(Config(), overlay(Config(), values))
    assert changed.applied + changed.needs_restart == (path,)
    assert ("; reload.\n" in entry(path)) == (changed.applied == (path,))
    assert ("; restart.\n" in entry(path)) == (changed.needs_restart == (path,))


def test_the_page_has_every_field_of_services_and_checks() -> None:
    services, checks = terms(section(PAGE, "SERVICES")), terms(section(PAGE, "CHECKS"))
    assert sorted(services) == sorted(registration.FIELDS.values())
    refused = {*MADE.CHECK_REFUSED, *MADE.CHECK_UNUSED}
    assert sorted((*checks, *refused)) == sorted(check_registration.FIELDS.values())
    for name in (*registration.IGNORED.values(), *check_registration.IGNORED.values(), *refused):
        assert name in PAGE


@pytest.mark.parametrize("name", MADE.CHECK_REFUSED)
def test_what_the_page_says_is_refused_in_a_check_is_refused(name: str) -> None:
    raw = {"name": "c", name: "x", "interval": "10s"}
    with pytest.raises(Mistakes, match=r"not supported|no longer used"):
        check_registration.parse_check(raw, from_config=True)


@pytest.mark.parametrize("verdict", ["ignored", "refused"])
def test_the_page_names_every_key_of_consul_with_its_verdict(verdict: str) -> None:
    title = {"ignored": "WITHOUT EFFECT", "refused": "THAT ARE REFUSED"}[verdict]
    told = section(PAGE, f"KEYS OF CONSUL {title}")
    named = {word.strip(",") for word in told.split()}
    assert {path for path, word in KNOWN.items() if word.verdict == verdict} <= named
    other = {path for path, word in KNOWN.items() if word.verdict != verdict and "." in path}
    assert not other & named


@pytest.mark.parametrize("text", EXAMPLES, ids=[text.splitlines()[0] for text in EXAMPLES])
def test_an_example_of_the_page_is_a_configuration_that_is_valid(text: str, tmp_path: Path) -> None:
    write(tmp_path, a_yaml=text)
    found = loaded(tmp_path, *([] if "data_dir" in text else ["-dev"]))
    assert not [warning for warning in found.warnings if "ignored" in warning]


def test_files_are_put_together_as_the_page_says(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "9-a_yaml": "node_name: nine\nretry_join: [c]\nservice: {name: c}\n",
            "10-a_yaml": "node_name: ten\nNODE_META: {a: '1', b: '1'}\nretry_join: [a]\n"
            "services: [{name: a}]\n",
            "20-a_json": json.dumps({"node_meta": {"b": "2"}, "retry_join": ["b"], "datacenter": None}),
        },
    )
    found = loaded(tmp_path, "-dev", "-retry-join=d", "-datacenter=flag").config
    assert found.node_name == "nine", "10-a comes before 9-a, and the later value counts"
    assert found.retry_join == ("a", "b", "c", "d"), "lists add up, flags last"
    assert found.node_meta == {"a": "1", "b": "2"}, "maps merge"
    assert [each.service.id for each in found.services] == ["a", "c"]
    assert (found.datacenter, found.server, found.performance.raft_multiplier) == ("flag", True, 1)
