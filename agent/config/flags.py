"""The flags of `gemot agent`: arguments -> what they set. One table.

Spelled as Go programs do: `-k v`, `-k=v`, `--k` alike; a switch stands bare or as `-k=true`. A flag sets a
key of the configuration; Consul's flags without effect here are treated as their keys are (`known.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import msgspec

from gemot.agent.config.fault import Fault

SOURCE = "command line"

Kind = Literal["switch", "text", "number", "list", "pair"]

_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_FALSE = frozenset(("0", "f", "F", "false", "False", "FALSE"))


class Flag(msgspec.Struct, frozen=True):
    """`path` is the key it sets, or "" for one that acts by itself."""

    path: str
    kind: Kind
    help: str


class Flags(msgspec.Struct, frozen=True):
    """What the command line says. `files` are -config-file and -config-dir in their order.

    `overrides` is nested like a file; `spelling` leads from its paths back to the flags.
    """

    files: tuple[str, ...] = ()
    overrides: dict[str, Any] = {}
    spelling: dict[str, str] = {}
    config_format: str = ""
    dev: bool = False
    hint: bool = False
    help: bool = False
    faults: tuple[Fault, ...] = ()


FLAGS: dict[str, Flag] = {
    "config-file": Flag("", "list", "Read this file (.json, .yaml). May be given several times."),
    "config-dir": Flag("", "list", "Read every .json and .yaml file in this directory, in name order."),
    "config-format": Flag("", "text", "Form of files whose name does not tell: json or yaml."),
    "dev": Flag("", "switch", "One server by itself on loopback that forgets everything at exit."),
    "hint": Flag("", "switch", "Print three lines on what to try first."),
    "hcl": Flag("", "text", "Not taken: HCL comes in a later release."),
    "h": Flag("", "switch", "Show this list."),
    "help": Flag("", "switch", "Show this list."),
    "server": Flag("server", "switch", "Be one of the servers."),
    "bootstrap": Flag("bootstrap", "switch", "Be the only server."),
    "bootstrap-expect": Flag(
        "bootstrap_expect", "number", "Wait for this many servers before electing a leader."
    ),
    "data-dir": Flag("data_dir", "text", "Directory that keeps this agent's state."),
    "node": Flag("node_name", "text", "Name of this node; the host's name otherwise."),
    "node-id": Flag("node_id", "text", "UUID of this node; made at the first start otherwise."),
    "node-meta": Flag("node_meta", "pair", "key:value to label this node with. May be given several times."),
    "datacenter": Flag("datacenter", "text", "Name of the datacenter."),
    "bind": Flag("bind_addr", "text", "Address for traffic between agents."),
    "advertise": Flag("advertise_addr", "text", "Address that others are told to use."),
    "client": Flag("client_addr", "text", "Addresses for HTTP and DNS, separated by spaces."),
    "retry-join": Flag("retry_join", "list", "Server to join, host[:port]. May be given several times."),
    "join": Flag("retry_join", "list", "As -retry-join."),
    "encrypt": Flag("encrypt", "text", "Key for gossip; a file keeps it from other users of this host."),
    "retry-interval": Flag("retry_interval", "text", "Pause between tries to join."),
    "retry-max": Flag("retry_max", "number", "Tries before giving up; 0 never does."),
    "rejoin": Flag("rejoin_after_leave", "switch", "Join those that were known before, also after a leave."),
    "domain": Flag("domain", "text", "DNS domain."),
    "alt-domain": Flag("alt_domain", "text", "A second DNS domain with the same answers."),
    "http-port": Flag("ports.http", "number", "Port of the HTTP API; -1 turns it off."),
    "dns-port": Flag("ports.dns", "number", "Port of DNS; -1 turns it off."),
    "server-port": Flag("ports.server", "number", "Port for RPC between agents and servers."),
    "serf-lan-port": Flag("ports.serf_lan", "number", "Port that joining agents ask."),
    "log-level": Flag("log_level", "text", "trace, debug, info, warn or error."),
    "log-json": Flag("log_json", "switch", "Log one JSON object a line."),
    "log-file": Flag("log_file", "text", "Also append the log to this file."),
    "pid-file": Flag("pid_file", "text", "File to write the process id to."),
    "enable-script-checks": Flag(
        "enable_script_checks", "switch", "As -enable-local-script-checks; on loopback only."
    ),
    "enable-local-script-checks": Flag(
        "enable_local_script_checks", "switch", "Let checks in configuration files run commands."
    ),
    "default-query-time": Flag("default_query_time", "text", "How long blocking queries wait by themselves."),
    "max-query-time": Flag("max_query_time", "text", "How long they may ask to wait."),
}

_WITHOUT_EFFECT: dict[str, tuple[str, Kind]] = {
    "advertise-wan": ("advertise_addr_wan", "text"),
    "retry-join-wan": ("retry_join_wan", "list"),
    "retry-interval-wan": ("retry_interval_wan", "text"),
    "retry-max-wan": ("retry_max_wan", "number"),
    "join-wan": ("start_join_wan", "list"),
    "recursor": ("recursors", "list"),
    "https-port": ("ports.https", "number"),
    "grpc-port": ("ports.grpc", "number"),
    "grpc-tls-port": ("ports.grpc_tls", "number"),
    "serf-wan-port": ("ports.serf_wan", "number"),
    "serf-lan-bind": ("serf_lan", "text"),
    "serf-wan-bind": ("serf_wan", "text"),
    "serf-lan-allowed-cidrs": ("serf_lan_allowed_cidrs", "list"),
    "serf-wan-allowed-cidrs": ("serf_wan_allowed_cidrs", "list"),
    "log-rotate-bytes": ("log_rotate_bytes", "number"),
    "log-rotate-duration": ("log_rotate_duration", "text"),
    "log-rotate-max-files": ("log_rotate_max_files", "number"),
    "ui": ("ui_config.enabled", "switch"),
    "ui-dir": ("ui_dir", "text"),
    "ui-content-path": ("ui_content_path", "text"),
    "syslog": ("enable_syslog", "switch"),
    "raft-protocol": ("raft_protocol", "number"),
    "protocol": ("protocol", "number"),
    "auto-reload-config": ("auto_reload_config", "switch"),
    "allow-write-http-from": ("http_config.allow_write_http_from", "list"),
    "disable-host-node-id": ("disable_host_node_id", "switch"),
    "disable-keyring-file": ("disable_keyring_file", "switch"),
    "primary-datacenter": ("primary_datacenter", "text"),
    "non-voting-server": ("non_voting_server", "switch"),
    "read-replica": ("read_replica", "switch"),
    "segment": ("segment", "text"),
}
_ALL = FLAGS | {name: Flag(path, kind, "") for name, (path, kind) in _WITHOUT_EFFECT.items()}


def parse(argv: Sequence[str]) -> Flags:
    """Read the arguments behind `agent`. Mistakes are in `faults`, so that all can be told together."""
    reading = _Reading()
    rest = iter(argv)
    for argument in rest:
        reading.take(argument, rest)
    return reading.flags()


def usage() -> str:
    """A line for each flag that has an effect."""
    shown = {name: flag for name, flag in FLAGS.items() if name not in ("h", "hcl", "hint")}
    return "\n".join(f"  -{name:<28}{flag.help}" for name, flag in sorted(shown.items()))


class _Reading:
    """The arguments read so far."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._set: dict[str, Any] = {}
        self._spelling: dict[str, str] = {}
        self._alone: dict[str, Any] = {}
        self._faults: list[Fault] = []
        self._after_unknown = False

    def take(self, argument: str, rest: Iterator[str]) -> None:
        after_unknown, self._after_unknown = self._after_unknown, False
        if after_unknown and not argument.startswith("-"):
            return  # most likely its value
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-") or not name:
            self._fault(
                argument[:60], "is not a flag; flags start with a dash, switches are set as -name=true"
            )
            return
        flag = _ALL.get(name)
        if flag is None:
            self._after_unknown = not equals
            near = get_close_matches(name[:60], _ALL, n=1)
            self._fault("-" + name[:60], "unknown flag" + (f"; did you mean -{near[0]}?" if near else ""))
            return
        if flag.kind == "switch":
            self._switch(name, flag, value if equals else "true")
            return
        given = value if equals else next(rest, None)
        if given is None:
            self._fault("-" + name, "needs a value")
        else:
            self._value(name, flag, given)

    def flags(self) -> Flags:
        form = self._alone.get("config-format", "")
        if form not in ("", "json", "yaml"):
            self._fault("-config-format", f'must be json or yaml, got "{form[:60]}"')
        return Flags(
            files=tuple(self._files),
            overrides=self._set,
            spelling=self._spelling,
            config_format=form,
            dev=self._alone.get("dev", False),
            hint=self._alone.get("hint", False),
            help=self._alone.get("h", False) or self._alone.get("help", False),
            faults=tuple(self._faults),
        )

    def _switch(self, name: str, flag: Flag, text: str) -> None:
        if text not in _TRUE | _FALSE:
            self._fault("-" + name, f'must be true or false, got "{text[:60]}"')
        elif flag.path:
            self._put(name, flag.path, text in _TRUE)
        else:
            self._alone[name] = text in _TRUE

    def _value(self, name: str, flag: Flag, text: str) -> None:
        bad = next((letter for letter in text if letter == "\0" or "\ud800" <= letter <= "\udfff"), None)
        if bad is not None:
            self._fault("-" + name, "holds a character that cannot be stored")
        elif name in ("config-file", "config-dir"):
            self._files.append(text)
        elif name == "hcl":
            self._fault("-hcl", "HCL comes in a later release: use flags, or a JSON or YAML file")
        elif not flag.path:
            self._alone[name] = text
        elif flag.kind == "pair":
            self._pair(name, flag.path, text)
        elif flag.kind == "list":
            self._put(name, flag.path, [*self._found(flag.path, []), text])
        else:
            self._put(name, flag.path, _number(text) if flag.kind == "number" else text)

    def _pair(self, name: str, path: str, text: str) -> None:
        key, colon, value = text.partition(":")
        if not colon or not key:
            self._fault("-" + name, f'must be key:value, got "{text[:60]}"')
            return
        self._put(name, path, self._found(path, {}) | {key: value})

    def _found(self, path: str, otherwise: Any) -> Any:
        return self._set.get(path, otherwise)

    def _put(self, name: str, path: str, value: object) -> None:
        group, _, key = path.rpartition(".")
        within = self._set.setdefault(group, {}) if group else self._set
        within[key] = value
        self._spelling[path] = "-" + name

    def _fault(self, path: str, message: str) -> None:
        self._faults.append(Fault(SOURCE, path, message))


def _number(text: str) -> int | str:
    """A number, or the text itself for the schema to complain about."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else text
