"""The client with threads and the client for asyncio offer the same, under the same names.

What one of them has alone stands here, with the reason.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

import gemot.agent.client
from gemot.agent.client.connection import Connection

CLIENT = Path(gemot.agent.client.__file__).parent
BOTH_USE = {
    "entry",
    "events",
    "held",
    "lease",
    "lock",
    "mirror",
    "path",
    "questions",
    "recipe",
    "resuming",
    "semaphore",
    "sse",
}
"""Without a socket: whoever asks imports the same."""

THREADS_ALONE = {
    "connection": "one agent is an Agents of one address; what errors and answers are is used by both",
    "history": "for people at a terminal, who look and roll back; one question each, through Agents.request",
    "snapshot": "for people at a terminal: it reads and writes files, which would block a loop",
}

TASKS_ALONE = {"ending": "a thread is not cancelled"}

SAME = {
    "election": "Election Leader Terms asking_to_resign is_asked_to_resign leader_of resignation",
    "once": "Done finding key_of recording",
    "session": "boot_clock created creation renewed",
    "steps": "",
    "watch": "Seen Watching back_off_s event_index",
    "agents": "passes",
}
"""What has no socket in a module that has both: asyncio uses it from there."""

WITHOUT = {
    ("agents", "Agents.__init__", "slow"): "tells people at a terminal that an answer is late, by a thread",
    ("hold", "Hold.follow"): "for `gemot lock`, whose guard is told of each renewal; a task asks `lost`",
    ("session", "Session.follow"): "as of Hold",
}

INSTEAD = {"connection": "agents"}
"""asyncio has no Connection: what takes one takes Agents there."""

NO_DEFAULT = {
    ("hold", "Hold.wait_lost", "timeout_s"): "a task that waits can be cancelled, a thread cannot",
    ("session", "Session.wait", "timeout_s"): "as of Hold",
}


def forms() -> list[str]:
    there = {path.stem for path in (CLIENT / "aio").glob("*.py")}
    return sorted(there - TASKS_ALONE.keys() - {"__init__"})


def module(name: str, *, aio: bool = False) -> ModuleType:
    return importlib.import_module(f"gemot.agent.client.{'aio.' if aio else ''}{name}")


def offered(of: ModuleType) -> dict[str, Any]:
    """Classes and functions that are defined there and are for others."""
    return {
        name: thing
        for name, thing in vars(of).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", "") == of.__name__
        and not isinstance(thing, TypeVar)
    }


def callables(of: ModuleType) -> dict[str, Any]:
    """Functions, and the methods and properties of classes, those that they inherit from ours as well."""
    found: dict[str, Any] = {}
    for name, thing in offered(of).items():
        if not inspect.isclass(thing):
            found[name] = thing
            continue
        members = {
            member for each in thing.__mro__ if each.__module__.startswith("gemot.") for member in vars(each)
        }
        kept = [member for member in members if not member.startswith("_") or member == "__init__"]
        found |= {f"{name}.{member}": inspect.getattr_static(thing, member) for member in kept}
    return found


def parameters(of: Any) -> dict[str, tuple[Any, Any]]:
    """By name: of which kind, and the default, of a function its name: one waits where one is awaited."""
    if not callable(of):
        return {}
    return {
        each.name: (each.kind, getattr(each.default, "__name__", each.default))
        for each in inspect.signature(of).parameters.values()
    }


def test_each_module_is_of_both_forms_or_said_to_be_of_one() -> None:
    all_of_them = {path.stem for path in CLIENT.glob("*.py")} - {"__init__"}
    assert all_of_them == BOTH_USE | THREADS_ALONE.keys() | set(forms())


@pytest.mark.parametrize("name", sorted(BOTH_USE))
def test_what_both_use_has_no_sockets_and_no_waiting(name: str) -> None:
    used = {
        getattr(thing, "__name__", "") for thing in vars(module(name)).values() if inspect.ismodule(thing)
    }
    if name != "lock":  # it says on which host it is
        assert not used & {"asyncio", "threading", "http.client", "time", "socket", "aiohttp"}


@pytest.mark.parametrize("name", forms())
def test_both_forms_offer_the_same_names(name: str) -> None:
    with_threads = callables(module(name))
    shared = {each for each in with_threads if each.partition(".")[0] in SAME.get(name, "").split()}
    alone = {each for each in with_threads if (name, each) in WITHOUT}
    assert with_threads.keys() - shared - alone == callables(module(name, aio=True)).keys()


@pytest.mark.parametrize("name", forms())
def test_both_forms_take_the_same_parameters(name: str) -> None:
    with_threads = callables(module(name))
    if name == "agents":  # it hands on what a Connection takes
        for method in ("request", "stream"):
            with_threads[f"Agents.{method}"] = getattr(Connection, method)
    for called, of in callables(module(name, aio=True)).items():
        theirs = parameters(with_threads[called])
        if called == "Agents.request":
            theirs.pop("headers")  # for the upload of a snapshot alone
        wanted = {
            INSTEAD.get(given, given): told
            for given, told in theirs.items()
            if (name, called, given) not in WITHOUT
        }
        have = parameters(of)
        assert list(have) == list(wanted), f"{name}.{called}"
        for given, told in have.items():
            if (name, called, given) in NO_DEFAULT:
                assert wanted[given][1] == inspect.Parameter.empty.__name__
            else:
                assert told == wanted[given], f"{name}.{called}: {given}"


@pytest.mark.parametrize("name", forms())
def test_what_asks_is_awaited_in_the_one_form_where_it_blocks_in_the_other(name: str) -> None:
    """What is plain in both asks nobody."""
    plain = {
        called
        for called, of in callables(module(name, aio=True)).items()
        if callable(of) and not (inspect.iscoroutinefunction(of) or inspect.isasyncgenfunction(of))
    }
    known = {"again", "turn", "__init__", "lose", "check", "question", "read", "differs"}
    assert {called.rpartition(".")[2] for called in plain} <= known


@pytest.mark.parametrize("exceptions", [WITHOUT, NO_DEFAULT], ids=["names", "defaults"])
def test_no_exception_outlives_its_reason(exceptions: dict[tuple[str, ...], str]) -> None:
    for name, called, *given in exceptions:
        ours, theirs = callables(module(name)), callables(module(name, aio=True))
        if not given:
            assert called in ours
            assert called not in theirs
        else:
            assert parameters(ours[called])[given[0]] != parameters(theirs.get(called)).get(given[0])
