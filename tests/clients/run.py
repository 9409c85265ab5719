"""`make clients`: other people's Consul clients, tested by their own suites against Gemot agents.

py-consul's source package is downloaded when this runs, none of it is kept here. Its tests run unchanged;
only the fixtures that start an agent are ours (`py_consul_fixtures.py`). What Gemot does not do yet is
declared in `py_consul_unsupported.txt`, a file that may only get shorter: a declared test that passes is a
failure until its line is deleted, and so is a line that names no test.

    run.py                  the families in scope
    run.py --all            the waiting families too, showing which of their tests pass already
    run.py -k EXPRESSION    as pytest's -k
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
CACHE = CHECKOUT / ".tools" / "clients"
UNSUPPORTED = HERE / "py_consul_unsupported.txt"

PACKAGE = "py-consul"
RELEASE = "1.8.0"
REQUIREMENTS = ["pytest>=8.3,<10", "pytest-asyncio", "packaging", "requests", "aiohttp"]
"""What the suite itself imports; its list has the tools of its developers too."""

IN_SCOPE = {
    "tests/api/test_kv.py",
    "tests/api/test_catalog.py",
    "tests/api/test_health.py",
    "tests/api/test_agent.py",
    "tests/api/test_coordinates.py",
    "tests/api/test_event.py",
    "tests/api/test_session.py",
    "tests/api/test_status.py",
    "tests/api/test_txn.py",
    "tests/test_aio.py",
}
NEEDS_NO_AGENT = {"tests/test_base.py", "tests/test_callback.py", "tests/test_std.py", "tests/test_utils.py"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="run the waiting families too")
    parser.add_argument("-k", dest="expression", default="", help="only the tests that match, as pytest's -k")
    chosen = parser.parse_args()

    suite = fetch_suite()
    python = prepare_environment(suite)
    unsupported = read_unsupported(UNSUPPORTED.read_text())
    families = sorted(f"tests/{p.relative_to(suite / 'tests')}" for p in suite.glob("tests/**/test_*.py"))
    waiting = [f for f in families if f not in IN_SCOPE | NEEDS_NO_AGENT]
    outcomes = run_suite(python, suite, sorted(IN_SCOPE) + waiting * chosen.all, chosen.expression)
    if not outcomes:
        print(f"clients: no test ran; see {CACHE / 'output.txt'}")
        return 1
    scope = {test: outcome for test, outcome in outcomes.items() if test.partition("::")[0] in IN_SCOPE}
    for family in waiting:
        passed = [t for t, o in outcomes.items() if t.startswith(f"{family}::") and o == "passed"]
        print(f"waits: {family}" + (f" ({len(passed)} of its tests pass already)" if passed else ""))
    faults = judge(scope, unsupported, whole=not chosen.expression)
    for fault in faults:
        print(fault)
    counts = Counter(scope.values())
    declared = sum(1 for test in scope if test in unsupported)
    print(
        f"py-consul {RELEASE}: passed {counts['passed']} of {len(scope)} in scope,"
        f" {declared} declared as not supported yet, {len(waiting)} families wait"
    )
    return 1 if faults else 0


def judge(outcomes: dict[str, str], unsupported: dict[str, str], *, whole: bool) -> list[str]:
    """What is wrong with these outcomes: failures not declared, and declarations that do not hold."""
    faults = [
        f"FAILED: {test} ({outcome})"
        for test, outcome in outcomes.items()
        if outcome != "passed" and test not in unsupported
    ]
    faults += [
        f"PASSES: {test}: delete its line in {UNSUPPORTED.name}"
        for test in unsupported
        if outcomes.get(test) == "passed"
    ]
    if whole:
        faults += [
            f"NO SUCH TEST: {test}: delete its line in {UNSUPPORTED.name}"
            for test in unsupported
            if test not in outcomes
        ]
    return faults


def read_unsupported(text: str) -> dict[str, str]:
    """The declared tests with their reasons: lines of `test: reason`."""
    declared = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            test, _, reason = line.partition(": ")
            if not reason.strip():
                raise ValueError(f"{UNSUPPORTED.name}: {line!r}: needs `test: reason`")
            declared[test.strip()] = reason.strip()
    return declared


def fetch_suite() -> Path:
    """The unpacked source package; downloaded once."""
    directory = CACHE / f"{PACKAGE.replace('-', '_')}-{RELEASE}"
    if (directory / "tests").is_dir():
        return directory
    CACHE.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*download, "--dest", str(CACHE), f"{PACKAGE}=={RELEASE}"], check=True)
    with tarfile.open(CACHE / f"{directory.name}.tar.gz") as archive:
        archive.extractall(CACHE, filter="data")
    return directory


def prepare_environment(suite: Path) -> Path:
    """A private virtual environment with the client and what its tests import; made once. Its interpreter."""
    venv = CACHE / "venv"
    python = venv / "bin" / "python"
    stamp = venv / ".installed"
    wanted = " ".join([str(suite), *REQUIREMENTS])
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *REQUIREMENTS, str(suite)], check=True)
        stamp.write_text(wanted)
    return python


def run_suite(python: Path, suite: Path, families: list[str], expression: str) -> dict[str, str]:
    """Run these test files; each test's outcome by its name."""
    results = CACHE / "results.json"
    results.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": f"{HERE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GEMOT_PROGRAM": str(Path(sys.executable).with_name("gemot")),
        "GEMOT_RESULTS": str(results),
    }
    # The suite's own options measure coverage; its root conftest would start containers.
    options = ["-o", "addopts=", "--confcutdir", str(suite / "tests"), "-p", "py_consul_fixtures"]
    options += ["-p", "no:cacheprovider", "-q", "-rf", *(["-k", expression] if expression else [])]
    with (CACHE / "output.txt").open("w") as output:
        subprocess.run(
            [str(python), "-m", "pytest", *options, *families],
            cwd=suite,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    loaded: dict[str, str] = json.loads(results.read_text()) if results.exists() else {}
    return loaded


if __name__ == "__main__":
    sys.exit(main())
