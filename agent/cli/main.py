"""`gemot`: finds the command, reads Go-style flags, turns errors into messages and exit codes.

A command's module is imported only when it is called, so that a plain `gemot kv get` starts quickly.
Exit codes: 0 done, 1 error, 2 a plan has changes or a child failed, 74 disk, 75 lock lost, 78 bad
configuration.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "agent": ("agent", "Run the agent: the daemon of this host."),
    "catalog": ("catalog", "List datacenters, nodes and services."),
    "election": ("election", "Have one host lead: campaign, see who leads, ask it to resign."),
    "event": ("event", "Tell every agent that something has happened."),
    "force-leave": ("force_leave", "Say of a member that failed that it will not come back."),
    "info": ("info", "Show figures of the local agent."),
    "join": ("join", "Have the agent meet a cluster now."),
    "keygen": ("keygen", "Make a key for the encryption of gossip."),
    "keyring": ("keyring", "List and change the keys of gossip, on all members."),
    "kv": ("kv", "Read and write configuration."),
    "leave": ("leave", "Leave the cluster on purpose and stop the agent."),
    "lock": ("lock", "Run a command on one host at a time, under a lock."),
    "members": ("members", "List the hosts of the cluster and whether they live."),
    "monitor": ("monitor", "Follow the agent's log."),
    "once": ("once", "Run a command once in the whole cluster."),
    "operator": (
        "operator",
        "Look after the servers: who votes, who leads, who is healthy.",
    ),
    "reload": ("reload", "Have the agent read its configuration again."),
    "rtt": ("rtt", "Estimate the round trip between two hosts."),
    "semaphore": ("semaphore", "Run a command on so many hosts at a time, under a slot each."),
    "services": ("services", "Register or deregister a service on this host."),
    "snapshot": ("snapshot", "Save, restore and inspect the whole state."),
    "status": ("status", "Show who leads, who is here and what is waited for; needs no quorum."),
    "template": ("template", "Render configuration files, once or for as long as it runs."),
    "validate": ("validate", "Check configuration files and tell every fault."),
    "version": ("version", "Show the version."),
    "watch": ("watch", "Print a value, or run a command each time it changes."),
    "why": ("why", "Explain why something is as it is."),
}


_READ_OWN_FLAGS = (("agent",), ("election", "run"), ("lock",), ("once",), ("semaphore",), ("watch",))
"""Commands whose words must come as they are written: the agent's flags, a command to run."""


class _Commands(click.Group):
    """Commands by name, imported when wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gemot.agent.cli.{COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = [] if args[0] in COMMANDS else get_close_matches(args[0][:40], COMMANDS, n=1)
        if near:
            ctx.fail(f"No such command '{args[0][:40]}'; did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    name="gemot",
    context_settings={"help_option_names": ["--help", "--h"]},
    epilog="Every command tells its flags with -h. Flags are written -name value or -name=value. The keys of "
    "the configuration are in gemot-config(5), the language of templates in gemot-template(5).",
)
def gemot() -> None:
    """Coordination for hosts: configuration, services, health, DNS names and rendered files."""


def normalise(arguments: Sequence[str]) -> list[str]:
    """Go-style flags as click wants them: `-name[=v]` becomes `--name[=v]`.

    A lone `-` (standard input), negative numbers and everything after `--` stay as they are.
    """
    done: list[str] = []
    for at, argument in enumerate(arguments):
        if argument == "--":
            return done + list(arguments[at:])
        single = argument.startswith("-") and not argument.startswith("--") and len(argument) > 1
        done.append(f"-{argument}" if single and not argument[1].isdigit() else argument)
    return done


_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


def read_switches(command: click.Command, words: Sequence[str]) -> list[str]:
    """Switches with a value, as Go takes them: `--name=true` is `--name`, and `--name=false` is nothing."""
    switches = {
        name for one in command.params if isinstance(one, click.Option) and one.is_flag for name in one.opts
    }
    done: list[str] = []
    for at, word in enumerate(words):
        if word == "--":
            return done + list(words[at:])
        name, equals, value = word.partition("=")
        if not (equals and name in switches and value in _TRUE | _FALSE):
            done.append(word)
        elif value in _TRUE:
            done.append(name)
    return done


def _find(words: Sequence[str]) -> click.Command:
    """The command that the leading words name, as far as they do."""
    command: click.Command = gemot
    for word in words:
        inner = (
            command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        )
        if inner is None:
            break
        command = inner
    return command


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    words = list(arguments)
    if not any(tuple(words[: len(each)]) == each for each in _READ_OWN_FLAGS):
        words = normalise(words)
        words = read_switches(_find(words), words)
    try:
        code = gemot.main(args=words, prog_name="gemot", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return code if isinstance(code, int) else 0
