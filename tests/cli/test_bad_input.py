"""Mistakes at the command line: each ends with a message that names it, never with a traceback."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemot.agent.cli.main import run
from gemot.agent.cli.options import token_of

NOBODY = "127.0.0.1:1"
ERROR, CONFIGURATION = 1, 78

MISTAKES: dict[str, tuple[int, str]] = {
    # what is wrong with the command's own words
    "servces": (ERROR, "did you mean services?"),
    "frobnicate": (ERROR, "No such command 'frobnicate'."),
    "kv get": (ERROR, "name the key"),
    "kv put": (ERROR, "KEY"),
    "kv put k v -acquire": (ERROR, "-session"),
    "kv put k v -modify-index=x -cas": (ERROR, "modify-index"),
    "kv delete": (ERROR, "name the key"),
    "kv import nonsense": (ERROR, "not an export"),
    "members -status=[": (ERROR, "-status: '['"),
    "members extra": (ERROR, "extra"),
    "catalog nodes -node-meta=rack": (ERROR, "-node-meta: must be key=value"),
    "services register": (ERROR, "either files or flags"),
    "services register -port=80": (ERROR, "-name is missing"),
    "services register -name=web -port=99999": (ERROR, "0<=x<=65535"),
    "services register -name=web -meta=a": (ERROR, "-meta: must be key=value"),
    "services register -name=web -meta=consul-a=1": (ERROR, "reserved"),
    "services register -name=web web.json": (ERROR, "either files or flags"),
    "services register gone.json": (ERROR, "gone.json: No such file"),
    "services register web.hcl": (ERROR, "HCL comes in a later release"),
    "services register web.txt": (ERROR, "must end in .json"),
    "services register bad.json": (ERROR, "bad.json: not JSON"),
    "services register empty.json": (ERROR, "holds no service"),
    "services register other.json": (ERROR, 'node_name: only the keys "service"'),
    "services register nameless.json": (ERROR, "services[0]: name: Missing service name"),
    "services deregister": (ERROR, "either -id or the files"),
    "services deregister -id=web web.json": (ERROR, "either -id or the files"),
    "watch": (ERROR, "-type: must be one of"),
    "watch -type=leaders": (ERROR, "-type: must be one of"),
    "watch -type=key": (ERROR, "-key is missing"),
    "watch -type=nodes -key=a": (ERROR, "-key has no meaning"),
    "watch -type=checks -service=a -state=any": (ERROR, "not both"),
    "watch -type=nodes -shell echo one": (ERROR, "one text"),
    "watch -type": (ERROR, "requires an argument"),
    "why service": (ERROR, "NAME"),
    "validate": (ERROR, "PATH"),
    "validate gone.json": (CONFIGURATION, "gone.json: cannot be read: No such file"),
    "validate bad.json": (CONFIGURATION, "bad.json: not JSON"),
    "template render": (ERROR, "nothing to render"),
    "template render -template=a": (CONFIGURATION, "SOURCE:DESTINATION"),
    "template render -template=a:b -timeout=soon": (ERROR, "-timeout"),
    "template render -template=a:b -timeout=0s": (ERROR, "-timeout"),
    "template render -template=a:b -template=c:b": (CONFIGURATION, "same destination"),
    "template render -config-file=other.json": (CONFIGURATION, "only templates are read here"),
    "template run -state-dir=s": (ERROR, "nothing to render"),
    "template run -config-file=bad.json": (ERROR, "state-dir"),
    "template run -config-file=bad.json -state-dir=s": (CONFIGURATION, "bad.json: not JSON"),
    "template run -config-file=empty.json -state-dir=s -log-level=loud": (ERROR, "-log-level"),
    "template validate": (ERROR, "nothing to render"),
    "template validate -template=gone:out": (CONFIGURATION, "gone"),
    # who is asked
    "members -http-addr=127.0.0.1:1": (ERROR, "cannot reach an agent at 127.0.0.1:1"),
    "members -http-addr=127.0.0.1:port": (ERROR, "is no address"),
    "members -http-addr=127.0.0.1:99999": (ERROR, "is no address"),
    "members -http-addr=ftp://host": (ERROR, "is no address"),
    "members -http-addr=http://": (ERROR, "is no address"),
    "members -http-addr=a\x01b": (ERROR, "is no address"),
    "members -http-addr=unix:///gone.sock": (ERROR, "cannot reach an agent at unix:///gone.sock"),
    "members -token-file=gone": (ERROR, "gone: No such file"),
    "members -token-file=bytes": (ERROR, "bytes: it is not UTF-8"),
    "template render -template=a:b -http-addr=127.0.0.1:1": (ERROR, "127.0.0.1:1"),
    "template render -template=a:b -http-addr=127.0.0.1:99999": (ERROR, "is no address"),
}

FILES = {
    "bad.json": "{",
    "bytes": "\udcff\n",
    "empty.json": "{}",
    "other.json": '{"node_name": "n"}',
    "web.json": '{"service": {"name": "web"}}',
    "web.txt": "",
    "nameless.json": '{"services": [{"port": 1}, {"name": "x", "port": 70000}]}',
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named_and_has_its_exit_code(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEMOT_HTTP_ADDR", NOBODY)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, errors="surrogateescape")
    code, words = MISTAKES[line]
    assert run(line.split()) == code
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


def test_every_fault_of_a_file_of_services_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEMOT_HTTP_ADDR", NOBODY)
    path = tmp_path / "nameless.json"
    path.write_text(FILES["nameless.json"])
    assert run(["services", "register", str(path)]) == 1
    told = capsys.readouterr().err
    assert "services[0]: name: Missing service name" in told
    assert "services[1]: port: Invalid service port: 70000" in told


@pytest.mark.parametrize("line", ["members", "kv put x y", "watch -type=key -key=x", "lock x true"])
def test_a_token_with_a_line_break_is_refused_and_not_told(
    line: str, stranger: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEMOT_HTTP_ADDR", stranger)
    monkeypatch.setenv("GEMOT_HTTP_TOKEN", "s3cr3t\r\nhidden")
    assert run(line.split()) == 1
    told = capsys.readouterr().err
    assert "the token cannot be sent as the header X-Consul-Token: character 7 of 14 is a line break" in told
    assert "s3cr3t" not in told
    assert "hidden" not in told


def test_a_line_break_at_the_end_is_not_of_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is read from a file, so from the environment: often that is filled from one."""
    monkeypatch.setenv("GEMOT_HTTP_TOKEN", "s3cr3t\n")
    assert token_of("", "") == "s3cr3t"
    monkeypatch.delenv("GEMOT_HTTP_TOKEN")
    (tmp_path / "token").write_text("s3cr3t\n")
    assert token_of("", str(tmp_path / "token")) == "s3cr3t"


class _Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that is no agent: it says 200 to everything."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"<html>hello"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "line",
    [
        "kv get a",
        "kv get -recurse a",
        "kv put a b",
        "members",
        "info",
        "status",
        "catalog datacenters",
        "catalog nodes",
        "catalog services",
        "catalog services -node=n1",
        "watch -type=nodes",
        "why service web",
        "why template",
    ],
)
def test_a_web_server_that_is_no_agent_is_told_as_such(
    stranger: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*line.split(), f"-http-addr={stranger}"]) == 1
    assert "is this the API of an agent?" in capsys.readouterr().err


def test_a_template_is_not_rendered_from_a_web_server_that_is_no_agent(
    stranger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t").write_text("x")
    pair = f"-template={tmp_path / 't'}:{tmp_path / 'out'}"
    assert run(["template", "render", pair, f"-http-addr={stranger}"]) == 1
    assert "not one of an agent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
