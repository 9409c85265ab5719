"""`gemot kv` as a process: forms of flags, standard input and files, exit codes, pipes that end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.dev_agent import PATIENCE_S, PROGRAM, Shell, until

from gemot.agent.client.connection import Connection, NotAnAgent
from gemot.agent.client.kv import Kv


def test_a_value_is_what_was_put(gemot: Shell) -> None:
    put = gemot("kv", "put", "one/a", "hello")
    assert (put.code, put.out) == (0, "Success! Data written to: one/a\n")
    got = gemot("kv", "get", "one/a")
    assert (got.code, got.out) == (0, "hello\n")


def test_a_missing_key_is_an_error_on_standard_error(gemot: Shell) -> None:
    got = gemot("kv", "get", "nowhere")
    assert (got.code, got.out) == (1, "")
    assert "No key exists at: nowhere" in got.err


@pytest.mark.parametrize(
    "flags", [["-detailed"], ["--detailed"], ["-detailed=true"], ["--detailed=1"]], ids=" ".join
)
def test_a_switch_is_written_in_any_form(gemot: Shell, flags: list[str]) -> None:
    gemot("kv", "put", "form", "x")
    assert "ModifyIndex" in gemot("kv", "get", *flags, "form").out
    assert "ModifyIndex" not in gemot("kv", "get", "-detailed=false", "form").out


@pytest.mark.parametrize(
    "flag", [["-flags", "42"], ["-flags=42"], ["--flags", "42"], ["--flags=42"]], ids=" ".join
)
def test_a_value_of_a_flag_is_written_in_any_form(gemot: Shell, flag: list[str]) -> None:
    assert gemot("kv", "put", *flag, "valued", "x").code == 0
    assert "Flags            42" in gemot("kv", "get", "-detailed", "valued").out


def test_the_address_of_a_flag_counts_before_the_environment(gemot: Shell) -> None:
    nobody = "127.0.0.1:1"
    assert gemot("kv", "put", "addr", "x", GEMOT_HTTP_ADDR=nobody).code == 1
    assert gemot("kv", "put", "-http-addr", gemot.address, "addr", "x", GEMOT_HTTP_ADDR=nobody).code == 0
    assert gemot("kv", "get", "addr", GEMOT_HTTP_ADDR="", CONSUL_HTTP_ADDR=gemot.address).out == "x\n"
    assert gemot("kv", "get", "addr", CONSUL_HTTP_ADDR=nobody).out == "x\n"
    assert gemot("kv", "get", "addr", GEMOT_HTTP_ADDR=f"http://{gemot.address}").out == "x\n"


def test_data_comes_from_standard_input_and_from_files_byte_by_byte(gemot: Shell) -> None:
    data = bytes(range(256)) * 4
    assert gemot("kv", "put", "bytes", "-", stdin=data).code == 0
    assert gemot("kv", "get", "bytes").raw == data + b"\n"
    (gemot.folder / "data").write_bytes(data[::-1])
    assert gemot("kv", "put", "bytes", "@data").code == 0
    assert gemot("kv", "get", "bytes").raw == data[::-1] + b"\n"
    missing = gemot("kv", "put", "bytes", "@gone")
    assert missing.code == 1
    assert "gone: No such file or directory" in missing.err


@pytest.mark.parametrize("key", ["a//b", "a/../b", "a b?c#d%e+f", "ключ/日本", ".hidden", "x/./y"])
def test_every_key_can_be_reached(gemot: Shell, key: str) -> None:
    assert gemot("kv", "put", key, "found").code == 0
    assert gemot("kv", "get", key).out == "found\n"
    assert gemot("kv", "delete", key).code == 0
    assert gemot("kv", "get", key).code == 1


def test_an_export_is_what_import_takes(gemot: Shell) -> None:
    for name in ("x", "y"):
        gemot("kv", "put", f"tree/{name}", name)
    exported = gemot("kv", "export", "tree/")
    assert [row["key"] for row in json.loads(exported.out)] == ["tree/x", "tree/y"]
    imported = gemot("kv", "import", "-prefix=copy/", "-", stdin=exported.raw)
    assert imported.out == "Imported: copy/tree/x\nImported: copy/tree/y\n"
    assert gemot("kv", "get", "copy/tree/y").out == "y\n"


def test_a_failed_cas_is_exit_code_1_and_writes_nothing(gemot: Shell) -> None:
    gemot("kv", "put", "cas", "old")
    assert gemot("kv", "put", "-cas", "-modify-index=1", "cas", "new").code == 1
    assert gemot("kv", "get", "cas").out == "old\n"


def test_a_pipe_that_ends_early_ends_the_command_without_a_word(gemot: Shell) -> None:
    gemot("kv", "put", "large", "-", stdin=b"x" * 400_000)
    line = f"{' '.join(PROGRAM)} kv get large | head -c 1"
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=gemot.environ, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.stdout == b"x"
    assert done.stderr == b""


def test_a_command_that_speaks_to_the_agent_loads_nothing_of_the_daemon(gemot: Shell) -> None:
    gemot("kv", "put", "light", "x")
    heavy = (
        "aiohttp",
        "apsw",
        "jinja2",
        "asyncio",
        "yaml",
        "psutil",
        "uvloop",
        "dnslib",
        "prometheus_client",
    )
    code = (
        "import sys; from gemot.agent.cli.main import run; run(['kv', 'get', 'light']);"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    arguments = [sys.executable, "-P", "-c", code]
    done = subprocess.run(arguments, env=gemot.environ, capture_output=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == b"x\n[]\n"


def test_a_lock_is_shown_with_its_session_and_its_fence(gemot: Shell) -> None:
    gemot("kv", "put", "locked", "x")
    assert "Fence" not in gemot("kv", "get", "-detailed", "locked").out
    asked = urllib.request.Request(f"http://{gemot.address}/v1/session/create", method="PUT", data=b"{}")

    def begun() -> str:
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
                return str(json.load(answer)["ID"])
        except urllib.error.HTTPError as error:  # its node is not in the catalog yet
            error.close()
            return ""

    sessions: list[str] = []
    until(lambda: sessions.append(begun()) or sessions[-1], "a session")
    gemot("kv", "put", "-acquire", f"-session={sessions[-1]}", "locked", "x")
    shown = dict(
        line.split(maxsplit=1) for line in gemot("kv", "get", "-detailed", "locked").out.splitlines()
    )
    assert list(shown) == [
        "CreateIndex",
        "Fence",
        "Flags",
        "Key",
        "LockIndex",
        "ModifyIndex",
        "Session",
        "Value",
    ]
    assert (shown["LockIndex"], shown["Session"]) == ("1", sessions[-1])
    assert int(shown["Fence"]) == int(shown["ModifyIndex"])


def test_a_long_list_comes_in_pages_that_tell_how_to_go_on(gemot: Shell) -> None:
    for name in ("1", "2", "it's/3"):
        gemot("kv", "put", f"page/{name}", "x")
    first = gemot("kv", "get", "-recurse", "-limit=1", "page/")
    assert (first.out, first.err) == ("page/1:x\n", "More: -after=page/1\n")
    second = gemot("kv", "get", "-keys", "-separator=", "-limit=2", "-after=page/1", "page/")
    assert (second.out, second.err) == ("page/2\npage/it's/3\n", "")
    names = gemot("kv", "get", "-keys", "-limit=2", "page/")
    assert (names.out, names.err) == ("page/1\npage/2\n", "More: -after=page/2\n")
    for wrong, why in (
        (["-limit=1", "page/1"], "-limit is for lists: give -recurse or -keys too"),
        (["-recurse", "-after=page/1", "page/"], "-after is for pages: give -limit too"),
        (["-recurse", "-limit=0", "page/"], "?limit= must be a number from 1 to 10000, not 0"),
        (["-recurse", "-limit=x", "page/"], "'x' is not a valid integer"),
    ):
        told = gemot("kv", "get", *wrong)
        assert (told.out, why in told.err) == ("", True), told.err


def test_a_client_for_python_reads_lists_a_page_at_a_time(gemot: Shell) -> None:
    with contextlib.closing(Connection(gemot.address)) as connection:
        kv = Kv(connection)
        names = [f"each/{number}/x" for number in range(7)] + ["each/\udcff"]
        for name in names:
            kv.put(name, b"v")
        for limit in (1, 3, 7, 8, 500):
            found = [entry.key for entry in kv.each("each/", limit=limit)]
            assert found == [*names[:7], "each/\ufffd"]
            assert list(kv.each_key("each/", limit=limit)) == found
            assert list(kv.each_key("each/", "/", limit=limit))[:2] == ["each/0/", "each/1/"]
        assert list(kv.each("nowhere/")) == list(kv.each_key("nowhere/")) == []


def test_a_key_that_is_put_with_a_ttl_tells_it_keeps_it_in_an_export_and_goes(gemot: Shell) -> None:
    assert gemot("kv", "put", "-ttl=1h", "ttl/long", "x").code == 0
    assert gemot("kv", "put", "-ttl", "1s", "ttl/short", "x").code == 0
    gemot("kv", "put", "ttl/stays", "x")
    shown = gemot("kv", "get", "-detailed", "ttl/long").out
    assert "TTL              1h0m0s\n" in shown
    assert "Expires in       59m" in shown or "Expires in       1h0m0s" in shown
    until(lambda: gemot("kv", "get", "ttl/short").code == 1, "its end")
    exported = gemot("kv", "export", "ttl/").raw
    assert [row.get("ttl") for row in json.loads(exported)] == ["1h0m0s", None]
    assert gemot("kv", "import", "-prefix=again/", "-", stdin=exported).code == 0
    assert "TTL " in gemot("kv", "get", "-detailed", "again/ttl/long").out
    assert "TTL " not in gemot("kv", "get", "-detailed", "again/ttl/stays").out
    wrong = gemot("kv", "put", "-ttl=1ms", "ttl/stays", "y")
    assert (wrong.code, "want a duration such as 30s" in wrong.err) == (1, True)
    assert gemot("kv", "get", "ttl/stays").out == "x\n"


def test_an_agent_that_knows_no_ttl_is_told_from_one_that_kept_it() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        told = pytest.raises(NotAnAgent, match="wrote a and knows no TTL: the key stays")
        with contextlib.closing(Connection(f"127.0.0.1:{server.server_port}")) as connection, told:
            Kv(connection).put("a", b"v", ttl="30s")
        thread.join()
