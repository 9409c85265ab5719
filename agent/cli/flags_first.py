"""Commands that run another one: flags end where its words begin, and those are handed on as written."""

from __future__ import annotations

from collections.abc import Sequence

import click

from gemot.agent.cli.main import normalise, read_switches


class FlagsFirst(click.Command):
    """Flags before the first word that is none; the main program leaves the words of such a command alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags, rest = _split(args, {name for one in self.params if _takes_value(one) for name in one.opts})
        words = read_switches(self, normalise(flags))
        return super().parse_args(ctx, [*words, "--", *rest] if rest else words)


def _takes_value(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.is_flag


def _split(args: Sequence[str], valued: set[str]) -> tuple[list[str], list[str]]:
    at = 0
    while at < len(args):
        argument = args[at]
        if argument == "--":
            return list(args[:at]), list(args[at + 1 :])
        if not argument.startswith("-") or argument == "-":
            break
        at += 2 if "=" not in argument and f"--{argument.lstrip('-')}" in valued else 1
    return list(args[:at]), list(args[at:])
