"""Words of the command line before a command sees them."""

from __future__ import annotations

import re

import click
import pytest

from gemot.agent.cli.main import COMMANDS, gemot, normalise, read_switches, run


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["-name", "v"], ["--name", "v"]),
        (["-name=v"], ["--name=v"]),
        (["--name", "v"], ["--name", "v"]),
        (["-"], ["-"]),
        (["put", "k", "-5"], ["put", "k", "-5"]),
        (["-a", "--", "-b"], ["--a", "--", "-b"]),
    ],
)
def test_single_dashes_become_double_ones(given: list[str], wanted: list[str]) -> None:
    assert normalise(given) == wanted


def test_switches_take_a_value_and_options_keep_theirs() -> None:
    @click.command()
    @click.option("--dry", is_flag=True)
    @click.option("--flags", type=int)
    def command() -> None: ...

    words = ["--dry=true", "--flags=1", "--dry=0", "--dry=perhaps", "--", "--dry=true"]
    assert read_switches(command, words) == ["--dry", "--flags=1", "--dry=perhaps", "--", "--dry=true"]


def _leaves() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = gemot.get_command(click.Context(gemot), name)
        assert command is not None
        inner = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []
        found += [(name, each) for each in inner] or [(name,)]
    return found


@pytest.mark.parametrize("words", _leaves(), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help", "-help"])
def test_every_command_has_help(
    words: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if flag == "-help" and words == ("agent",):
        flag = "-h"
    assert run([*words, flag]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: gemot {' '.join(words)}")


@pytest.mark.parametrize(
    "name", sorted(set(COMMANDS) - {"agent", "version", "status", "info", "kv", "leave"})
)
def test_the_help_of_a_command_teaches_by_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([name, "-h"])
    told = capsys.readouterr().out
    assert re.search(r"gemot (validate|reload|" + name + ")", told.partition("\n")[2]), told


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-h"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name}" in told for name in COMMANDS)


@pytest.mark.parametrize("words", [["nonsense"], ["kv", "nonsense"], ["members", "-nonsense"], ["-nonsense"]])
def test_unknown_words_are_exit_code_1_and_named(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 1
    assert "nonsense" in capsys.readouterr().err
