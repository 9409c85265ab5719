"""The loader: the one place of the configuration that reads files.

Order, the later over the earlier: defaults, what -dev implies, files and directories as given on the command
line, other flags. Every mistake in all of them is told at once.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from gemot.agent.config import document, rules, stanzas
from gemot.agent.config.decode import Decoded, decode
from gemot.agent.config.document import Form, Unreadable
from gemot.agent.config.fault import Fault, refuse
from gemot.agent.config.flags import SOURCE, Flags
from gemot.agent.config.merge import merge, overlay
from gemot.agent.config.resolve import DEV
from gemot.agent.config.schema import Config
from gemot.agent.config.stanzas import Parsers, Stanza
from gemot.agent.fields import Mistakes
from gemot.agent.registration import Policy, parse_check, parse_service
from gemot.agent.template.definition import TemplateDefinition, parse_template
from gemot.agent.template.render import check_template

MAX_FILES = 1000

_FORMS: dict[str, Form] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_MAPS = ("node_meta", "tagged_addresses", "dns_config.service_ttl", "http_config.response_headers")
_HCL = ".hcl"


class Loaded(msgspec.Struct, frozen=True):
    """`warnings` are lines for people; `files` is what was read, in order."""

    config: Config
    warnings: tuple[str, ...]
    files: tuple[str, ...]


class _Sources:
    """What was read so far, put together."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.setters: dict[str, tuple[str, ...]] = {}
        self.wrong: set[str] = set()
        self.stanzas: list[Stanza] = []
        self.faults: list[Fault] = []
        self.warnings: list[str] = []
        self.files: dict[str, os.stat_result] = {}

    def add(self, source: str, decoded: Decoded) -> None:
        self.values = merge(self.values, decoded.values)
        for path, adds_up in decoded.given.items():
            before = self.setters.get(path, ()) if adds_up else ()
            self.setters[path] = (*before, source)
        self.wrong |= {_owner(path) for path in decoded.wrong}
        self.stanzas += decoded.stanzas
        self.faults += decoded.faults
        self.warnings += decoded.warnings

    def told(self, paths: tuple[str, ...], message: str, spelling: dict[str, str]) -> Fault:
        """A finding of the rules as a fault of the sources that set what it concerns."""
        setters = [setter for path in paths for setter in self.setters.get(_owner(path), ())]
        spelled = (spelling.get(p, p) if self.setters.get(p) == (SOURCE,) else p for p in paths)
        return Fault(", ".join(dict.fromkeys(setters)), ", ".join(spelled), message)


def load(flags: Flags) -> Loaded:
    """Read everything the command line names. Raises ConfigFaults with every mistake there is."""
    sources = _Sources()
    sources.faults += flags.faults
    sources.values = DEV if flags.dev else {}
    readable = _add_files(sources, flags)
    sources.add(SOURCE, decode(flags.overrides, SOURCE, flags.spelling))
    config = overlay(Config(), sources.values)
    if readable:  # with a file missing, what is missing in the rest says nothing
        found = [each for each in rules.faults(config) if sources.wrong.isdisjoint(map(_owner, each[0]))]
        sources.faults += (sources.told(paths, message, flags.spelling) for paths, message in found)
    parsed = stanzas.parse(sources.stanzas, _parsers(config))
    sources.faults += (*parsed.faults, *_distrusted(sources, parsed.commanding))
    sources.warnings += parsed.warnings
    refuse(sources.faults, sources.warnings)
    told = (sources.told(paths, message, flags.spelling) for paths, message in rules.warnings(config))
    sources.warnings += (*map(str, told), *_exposed(sources))
    return Loaded(overlay(config, parsed.values), tuple(sources.warnings), tuple(sources.files))


def load_templates(flags: Flags) -> Loaded:
    """The templates alone, for the program that only renders: other keys are faults. Raises ConfigFaults."""
    sources = _Sources()
    sources.faults += flags.faults
    _add_files(sources, flags)
    others = [(source, path) for path, setters in sources.setters.items() for source in setters]
    others += [(stanza.source, stanza.path) for stanza in sources.stanzas if stanza.kind != "templates"]
    sources.faults += (
        Fault(*each, "only templates are read here: move it to the agent's") for each in others
    )
    templates = [stanza for stanza in sources.stanzas if stanza.kind == "templates"]
    parsed = stanzas.parse(templates, _parsers(Config()))
    sources.faults += (*parsed.faults, *_distrusted(sources, parsed.commanding))
    refuse(sources.faults)
    warnings = (*sources.warnings, *parsed.warnings)
    return Loaded(overlay(Config(), parsed.values), warnings, tuple(sources.files))


def _parsers(config: Config) -> Parsers:
    scripts = config.enable_script_checks or config.enable_local_script_checks
    policy = Policy(scripts=scripts, output_max_bytes=config.check_output_max_size)
    return Parsers(
        services=partial(parse_service, from_config=True, policy=policy),
        checks=partial(parse_check, from_config=True, policy=policy),
        templates=_read_template,
    )


def _read_template(raw: object) -> TemplateDefinition:
    """The definition, once its text compiles. Raises Mistakes with those of both."""
    try:
        definition = parse_template(raw)
    except Mistakes as error:
        given = raw if isinstance(raw, dict) else {}
        sound = {key: value for key, value in given.items() if key not in dict(error.found)}
        raise Mistakes.of([*error.found, *_faults_of_text(sound)]) from None
    check_template(definition)
    return definition


def _faults_of_text(sound: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What else keeps the rest of a definition from being used, where it can be told by itself."""
    try:
        definition = parse_template({"destination": "/not-told"} | sound)
    except Mistakes:
        return ()
    try:
        check_template(definition)
    except Mistakes as error:
        return error.found
    return ()


def _owner(path: str) -> str:
    """The path that was set as a whole: the list of an element, the map of a key."""
    path = path.partition("[")[0]
    for whole in _MAPS:
        if path.startswith(whole + "."):
            return whole
    return path


def _add_files(sources: _Sources, flags: Flags) -> bool:
    """Add every file in order. False when one of them could not be read."""
    readable = True
    for place in flags.files:
        try:
            paths = _files_at(place, sources.warnings)
        except Unreadable as error:
            sources.faults.append(Fault(place, "", str(error)))
            readable = False
            continue
        for path in paths:
            readable = _add_file(sources, path, flags) and readable
    return readable


def _files_at(place: str, warnings: list[str]) -> list[str]:
    """The file itself, or the files of a directory in name order; what is below it is not looked at."""
    try:
        if not os.path.isdir(place):
            return [place]
        names = sorted(name for name in os.listdir(place) if name.endswith((*_FORMS, _HCL)))
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {_reason(error)}") from None
    if len(names) > MAX_FILES:
        raise Unreadable(f"holds {len(names)} configuration files; {MAX_FILES} at most are read")
    paths = [os.path.join(place, name) for name in names]
    warnings += (f"{path}: hidden files are not read" for path in paths if _is_hidden(path))
    if not paths:
        warnings.append(f"{place}: holds no file that ends in .json, .yaml or .yml")
    return [path for path in paths if not _is_hidden(path) and not os.path.isdir(path)]


def _is_hidden(path: str) -> bool:
    """What editors leave beside a file (.web.json.swp, .#web.json), and what hides itself on purpose."""
    return os.path.basename(path).startswith(".")


def _add_file(sources: _Sources, path: str, flags: Flags) -> bool:
    try:
        data, status = _read(path)
        raw = document.parse(data, _form(path, flags.config_format))
    except Unreadable as error:
        sources.faults += (Fault(path, "", message) for message in error.messages)
        return False
    decoded = decode(raw, path)
    sources.files[path] = status
    sources.add(path, decoded)
    if "dev_mode" in decoded.given:
        sources.faults.append(Fault(path, "dev_mode", "is set by the flag -dev alone"))
    return True


def _form(path: str, otherwise: str) -> Form:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _FORMS:
        return _FORMS[suffix]
    if suffix == _HCL:
        raise Unreadable("HCL comes in a later release: write it as JSON or YAML (same keys)")
    if otherwise in ("json", "yaml"):
        return "json" if otherwise == "json" else "yaml"
    raise Unreadable("the name must end in .json, .yaml or .yml, or -config-format say which it is")


def _read(path: str) -> tuple[bytes, os.stat_result]:
    """A regular file's bytes, and what it was when they were read. Nothing that could block or not end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("is not a regular file")
            return file.read(document.MAX_BYTES + 1), status
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {_reason(error)}") from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or "the system gives no reason") if isinstance(error, OSError) else "no such name"


def _exposed(sources: _Sources) -> Iterator[str]:
    """Files whose key is no secret."""
    for path in sources.setters.get("encrypt", ()):
        status = sources.files.get(path)  # none of the command line
        if status is not None and status.st_mode & stat.S_IROTH:
            mode, command = stat.S_IMODE(status.st_mode), f"chmod o-r {shlex.quote(path)}"
            yield f"{path}: encrypt: every user of this host can read the key (mode {mode:04o}): {command}"


def _distrusted(sources: _Sources, commanding: tuple[str, ...]) -> Iterator[Fault]:
    """Files that others could have written must not make this agent run commands or write files."""
    for path in commanding:
        status = sources.files[path]
        if status.st_mode & stat.S_IWOTH:
            yield Fault(
                path, "", "anyone may write this file, and it makes this agent run commands: chmod o-w"
            )
        elif status.st_uid not in (0, os.geteuid()):
            whose = f"belongs to user {status.st_uid}, and it makes this agent run commands"
            yield Fault(path, "", f"{whose}: it must be root's or this agent's own")
