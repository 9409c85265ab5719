"""A template's definition: consul-template's keys, every fault named at once."""

from __future__ import annotations

import pytest

from gemot.agent.template.definition import TemplateDefinition, Wait, check_together, parse_template
from gemot.server.model.errors import BadRequest

LEAST = {"source": "/etc/gemot/a.tpl", "destination": "/etc/a.conf"}


def fault(**keys: object) -> str:
    with pytest.raises(BadRequest) as caught:
        parse_template(LEAST | keys)
    return caught.value.message


def test_the_least_definition_has_the_documented_defaults() -> None:
    assert parse_template(LEAST) == TemplateDefinition(
        source="/etc/gemot/a.tpl",
        destination="/etc/a.conf",
        contents="",
        create_dest_dirs=True,
        perms=None,
        user="",
        group="",
        command=(),
        command_timeout_s=30.0,
        wait=Wait(0.0, 0.0),
        left_delimiter="{{",
        right_delimiter="}}",
        error_on_missing_key=True,
        backup=False,
    )


def test_every_key_is_read() -> None:
    found = parse_template(
        {
            "contents": "x",
            "destination": "/a//b",
            "create_dest_dirs": False,
            "perms": "0640",
            "user": "root",
            "group": 0,
            "command": ["systemctl", "reload", "nginx"],
            "command_timeout": "5s",
            "wait": {"min": "2s", "max": "10s"},
            "left_delimiter": "[[",
            "right_delimiter": "]]",
            "error_on_missing_key": False,
            "backup": True,
        }
    )
    assert found == TemplateDefinition(
        contents="x",
        destination="/a/b",
        create_dest_dirs=False,
        perms=0o640,
        user="root",
        group="0",
        command=("systemctl", "reload", "nginx"),
        command_timeout_s=5.0,
        wait=Wait(2.0, 10.0),
        left_delimiter="[[",
        right_delimiter="]]",
        error_on_missing_key=False,
        backup=True,
    )


def test_a_command_given_as_text_is_run_by_the_shell() -> None:
    assert parse_template(LEAST | {"command": "a && b"}).command == ("/bin/sh", "-c", "a && b")
    assert parse_template(LEAST | {"command": " "}).command == ()
    assert parse_template(LEAST | {"command": ""}).command == ()


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        ("5s:20s", Wait(5, 20)),
        ("5s", Wait(5, 20)),
        ({"min": "5s"}, Wait(5, 20)),
        ([{"min": "5s", "max": "6s"}], Wait(5, 6)),
        ("0s:0s", Wait(0, 0)),
    ],
)
def test_a_wait_is_a_map_or_a_text_and_its_max_is_four_times_its_min(wait: object, expected: Wait) -> None:
    assert parse_template(LEAST | {"wait": wait}).wait == expected


@pytest.mark.parametrize("perms", ["644", "0644", "0o644", 0o644])
def test_perms_are_octal_text_or_the_mode_itself(perms: object) -> None:
    assert parse_template(LEAST | {"perms": perms}).perms == 0o644


@pytest.mark.parametrize("perms", [400, 440, 444, 600, 640, 644, 660, 664, 666, 700, 750, 755, 770, 775, 777])
def test_a_mode_that_lost_its_octal_spelling_is_refused(perms: int) -> None:
    assert 'write the mode as text, such as "0644"' in fault(perms=perms)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"perms": "0888"}, "perms: must be an octal mode"),
        ({"perms": "4755"}, "perms: must be an octal mode"),
        ({"perms": True}, "perms: must be an octal mode"),
        ({"wait": "9s:3s"}, r"wait: max (3s) is less than min (9s)"),
        ({"wait": "soon"}, "wait: "),
        ({"wait": {"min": "1s", "mix": "2s"}}, "wait: mix: unknown"),
        ({"wait": {}}, "wait: min is missing"),
        ({"command": []}, "command: is an empty list: name the program and its arguments, or leave it out"),
        ({"command": [""]}, "command: the first argument"),
        ({"command": ["a", 3]}, "command: must be text, got a number"),
        ({"command": ["x"] * 257}, "command: has 257 arguments, the limit is 256"),
        ({"command": 7}, "command: must be a list of arguments"),
        ({"command": "x\0y"}, "command: must not hold a NUL"),
        ({"command": "x", "command_timeout": "0s"}, "command_timeout: 0s is too short"),
        ({"command": "x", "command_timeout": "2h"}, "command_timeout: 2h is out of range"),
        ({"command_timeout": "3s"}, "command_timeout: is set without a command"),
        ({"destination": "etc/a"}, "destination: must be an absolute path"),
        ({"destination": "/etc/"}, "destination: names a directory"),
        ({"destination": "/" + "x" * 5000}, "destination: is longer than 4096 bytes"),
        ({"contents": "x"}, "source and contents are both set"),
        ({"source": None, "contents": "x" * 2_000_000}, "contents: is larger than 1048576 bytes"),
        ({"source": None}, "source: is missing"),
        ({"destination": None}, "destination: is missing"),
        ({"left_delimiter": "{%"}, "left_delimiter: '{%' already marks"),
        ({"left_delimiter": "}}"}, "left_delimiter and right_delimiter are the same"),
        ({"left_delimiter": ""}, "left_delimiter: must be 1 to 16 characters"),
        ({"backup": "yes"}, "backup: must be true or false, got text"),
        ({"user": -1}, "user: id -1 is out of range"),
        ({"destnation": "/x"}, "destnation: is not a key of a template; did you mean destination?"),
        ({"qqqq": 1}, "qqqq: is not a key of a template; known are source, contents"),
    ],
)
def test_each_mistake_is_named_with_its_key(keys: dict[str, object], words: str) -> None:
    assert words in fault(**keys)


def test_all_mistakes_are_told_at_once() -> None:
    message = fault(perms="9", wait="x", colour="red")
    assert all(word in message for word in ("perms:", "wait:", "colour:"))


@pytest.mark.parametrize("raw", [None, 3, "x", ["x"]])
def test_what_is_not_a_map_is_refused(raw: object) -> None:
    with pytest.raises(BadRequest, match="a template is a map"):
        parse_template(raw)


def test_two_templates_cannot_write_one_file() -> None:
    one, two = (parse_template(LEAST | {"source": f"/{name}"}) for name in "ab")
    with pytest.raises(BadRequest, match=r"/a and /b have the same destination /etc/a.conf"):
        check_together([one, two])


def test_a_template_cannot_write_the_source_of_another() -> None:
    one = parse_template(LEAST | {"destination": "/b"})
    two = parse_template({"source": "/b", "destination": "/c"})
    with pytest.raises(BadRequest, match="would overwrite a template"):
        check_together([one, two])
