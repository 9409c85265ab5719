"""Writes packaging/man/ and packaging/completions/ from the commands, the schema and packaging/pages/.

Run it after a command, a flag, a key or a page changed: `python packaging/manual.py`. A test holds that what
is committed is what this writes. Man pages are roff with the man(7) macros.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class
from config_page import config_page
from roff import escape, head, item, kept
from template_page import template_page

from gemot.agent.cli.main import COMMANDS, gemot
from gemot.agent.config.flags import FLAGS

HERE = Path(__file__).parent
SHELLS = {"bash": "gemot.bash", "zsh": "_gemot", "fish": "gemot.fish"}

EXIT_CODES = (
    ("0", "done"),
    ("1", "an error; the message says what and what to do"),
    (
        "2",
        "members: no host matches; template render: the files are written and a command failed; lock, "
        "semaphore, election run: the command failed, with -child-exit-code; once: the command failed; "
        "election observe: nobody leads",
    ),
    ("74", "agent: the disk failed a write or a sync"),
    ("75", "lock, semaphore, election run, once: what was held was lost while the command ran"),
    ("78", "a configuration that cannot be used"),
)
ENVIRONMENT = (
    ("GEMOT_HTTP_ADDR", "the agent: host:port, a URL, or unix:///path (default 127.0.0.1:8500)"),
    ("GEMOT_HTTP_TOKEN", "token to present"),
    ("GEMOT_HTTP_TOKEN_FILE", "file that holds the token"),
)
FILES = (
    ("/etc/gemot.d/", "configuration of the agent: *.json, *.yaml, in name order"),
    ("/etc/gemot.d/gemot.env", "environment of the services"),
    ("/etc/gemot-template.d/", "templates of gemot-template.service"),
    ("/var/lib/gemot/", "state of the agent; on a server the log and the data"),
)


def write(root: Path = HERE) -> None:
    for name, text in pages().items():
        (root / "man" / name).write_text(text)
    for name, text in completions().items():
        (root / "completions" / name).write_text(text)


def pages() -> dict[str, str]:
    """The text of each page by file name."""
    return {
        "gemot.1": _overview(),
        "gemot-agent.1": _agent(),
        "gemot-kv.1": _group("kv"),
        "gemot-snapshot.1": _group("snapshot"),
        "gemot-template.1": _group("template"),
        "gemot-config.5": config_page(),
        "gemot-template.5": template_page(),
    }


def completions() -> dict[str, str]:
    found = {}
    for shell, name in SHELLS.items():
        made = get_completion_class(shell)
        assert made is not None
        # Only the text: bash is not asked for its version, as click does when it prints the script.
        variables = made(gemot, {}, "gemot", "_GEMOT_COMPLETE").source_vars()
        found[name] = made.source_template % variables
    return found


def _overview() -> str:
    lines = _head("gemot", "coordination for hosts: configuration, services, health, DNS, rendered files")
    lines += [
        ".SH SYNOPSIS",
        ".B gemot",
        r"\fICOMMAND\fR [\fB\-flag\fR[\fB=\fIvalue\fR]...] [\fIargument\fR...]",
    ]
    lines += [".SH DESCRIPTION"]
    lines += _paragraphs(
        "Gemot lets the hosts of a cluster agree on shared state. One agent runs on every host; three or\n"
        "five of them are also the servers. It speaks Consul's HTTP and DNS interfaces.\n\n"
        "Flags are written -name value or -name=value, with one dash or two; -h tells those of a command.\n"
        "A lone - stands for standard input, @file for a file's content."
    )
    lines += [".SH COMMANDS"]
    for name in COMMANDS:
        command = _command(name)
        if name in ("agent", "kv", "template"):
            lines += item(f"gemot {name}", f"{COMMANDS[name][1]} See gemot-{name}(1).")
            continue
        inner = [(name, command)]
        if isinstance(command, click.Group):
            inner = [(f"{name} {each}", leaf) for each, leaf in _leaves(command)]
        for words, leaf in inner:
            lines += [f".SS {escape(_usage(words, leaf))}", *_body(leaf)]
    lines += [".SH EXAMPLES"]
    lines += _example("gemot agent -dev", "Try it out: one server by itself that forgets everything at exit.")
    lines += _example(
        "gemot kv put web/port 80 && gemot kv get web/port", "Configuration that all hosts see."
    )
    lines += _example(
        "gemot lock jobs/nightly ./nightly.sh",
        "Run a job on one host at a time; its fence is in its environment.",
    )
    lines += _example("gemot why service web", "Why an instance is, or is not, in the answers.")
    return _page(lines, "gemot-agent(1), gemot-kv(1), gemot-template(1), gemot-config(5), gemot-template(5)")


def _agent() -> str:
    lines = _head("gemot-agent", "the daemon of a host")
    lines += [".SH SYNOPSIS", ".B gemot agent", r"[\fB\-flag\fR[\fB=\fIvalue\fR]...]", ".SH DESCRIPTION"]
    lines += _paragraphs(
        "Runs the agent in the foreground: it checks this host's services, forwards registrations to the\n"
        "servers, answers HTTP (8500) and DNS (8600), and renders configuration files. With -server it is\n"
        "one of the three or five servers of its cluster.\n\n"
        "The configuration is read from files and directories (-config-file, -config-dir) and flags, the\n"
        "later over the earlier; gemot validate checks it beforehand. Keys are Consul's: gemot-config(5)\n"
        "has each with its default and limits, gemot-template(5) the language of templates."
    )
    lines += [".SH OPTIONS"]
    for name, flag in sorted(FLAGS.items()):
        if name not in ("h", "help", "hcl", "hint"):
            lines += item(f"-{name}", flag.help)
    lines += [".SH SIGNALS"]
    lines += item("SIGTERM, SIGINT", "stop; leave the cluster only if leave_on_terminate says so")
    lines += item("SIGHUP", "read the configuration again, all or nothing")
    lines += [".SH EXAMPLES"]
    lines += _example("gemot agent -dev", "One server by itself, in memory, to try it out.")
    lines += _example("gemot agent -config-dir=/etc/gemot.d", "What gemot.service runs.")
    return _page(lines, "gemot(1), gemot-config(5), gemot-template(5)")


def _group(name: str) -> str:
    command = _command(name)
    assert isinstance(command, click.Group)
    lines = _head(f"gemot-{name}", COMMANDS[name][1].rstrip(".").lower())
    lines += [".SH SYNOPSIS", f".B gemot {name}", r"\fICOMMAND\fR [\fB\-flag\fR...] [\fIargument\fR...]"]
    lines += [".SH DESCRIPTION", *_paragraphs(command.help or ""), ".SH COMMANDS"]
    for each, leaf in _leaves(command):
        lines += [f".SS {escape(_usage(f'{name} {each}', leaf))}", *_body(leaf)]
    also = "gemot(1), gemot-agent(1)" + (", gemot-template(5)" if name == "template" else "")
    return _page(lines, also)


def _command(name: str) -> click.Command:
    command = gemot.get_command(click.Context(gemot), name)
    assert command is not None
    return command


def _leaves(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", leaf) for inner, leaf in _leaves(command))
        else:
            yield name, command


def _usage(words: str, command: click.Command) -> str:
    context = click.Context(command)
    arguments = [
        argument.make_metavar(context) for argument in command.params if isinstance(argument, click.Argument)
    ]
    return " ".join(["gemot", words, *arguments])


def _body(command: click.Command) -> list[str]:
    lines = _paragraphs(command.help or "")
    for option in command.params:
        if isinstance(option, click.Option):
            name = f"-{option.opts[0].lstrip('-')}"
            shown = name if option.is_flag else f"{name}=VALUE"
            lines += item(shown, option.help or "")
    return lines


def _head(name: str, purpose: str) -> list[str]:
    return [*head(name, 1), ".SH NAME", f"{escape(name)} \\- {escape(purpose)}"]


def _page(lines: list[str], see_also: str) -> str:
    for title, rows in (("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for name, text in rows:
            lines += item(name, text)
        if title == "ENVIRONMENT":
            lines += [
                ".PP",
                "Each is also read under Consul's name (CONSUL_HTTP_ADDR, ...); ours counts first.",
            ]
    return "\n".join([*lines, ".SH SEE ALSO", see_also]) + "\n"


def _paragraphs(text: str) -> list[str]:
    r"""Paragraphs as click's help has them: one that begins with \b keeps its lines."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        if first.strip() == "\b":
            lines += [".PP", *kept(rest)]
        else:
            lines += [".PP", *map(escape, map(str.strip, paragraph.splitlines()))]
    return lines


def _example(line: str, text: str) -> list[str]:
    return [".PP", escape(text), ".PP", *kept(f"  {line}")]


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
