"""Runs a command of a service unit by hand as systemd would: its user, rights, files, limits, system calls.

    python3 -I as_unit.py UNIT KEY INDEX [NAME=VALUE...]     (as root; KEY INDEX is for instance ExecStart 0)

For machines where no systemd runs. The process becomes the command, so its pid is that of whoever started it.
Stricter than the unit in one thing: a system call that its filter refuses kills the process, so that none
goes unnoticed. Not shown here: limits on IP addresses, and what the manager itself does (restarts, watchdog).
Every directive must be known below: a new one cannot stay untried in silence. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

_MANAGERS_OWN = """
    Type NotifyAccess ExecStart ExecReload KillMode KillSignal TimeoutStopSec TimeoutStartSec Restart
    RestartSec RestartPreventExitStatus WatchdogSec IPAddressDeny IPAddressAllow RemoveIPC
"""
_APPLIED = """
    User Group UMask EnvironmentFile LimitNOFILE StateDirectory StateDirectoryMode LogsDirectory
    LogsDirectoryMode RuntimeDirectory RuntimeDirectoryMode NoNewPrivileges CapabilityBoundingSet
    AmbientCapabilities
    ProtectSystem ProtectHome PrivateTmp PrivateDevices PrivateMounts ProtectKernelTunables
    ProtectControlGroups ProtectKernelModules ProtectProc ReadWritePaths ReadOnlyPaths
    RestrictAddressFamilies RestrictNamespaces LockPersonality RestrictRealtime RestrictSUIDSGID
    SystemCallFilter SystemCallArchitectures SystemCallErrorNumber
"""
# Refused by the system call filter and the missing capabilities already.
_IMPLIED = "ProtectClock ProtectHostname ProtectKernelLogs"

_FOLDERS = {
    "StateDirectory": "/var/lib",
    "LogsDirectory": "/var/log",
    "RuntimeDirectory": "/run",
}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "shm", "pts")

_CLONE_NEWNS = 0x20000
_NAMESPACES = (0x80, _CLONE_NEWNS, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_AT_FDCWD, _AT_RECURSIVE, _RDONLY, _MOUNT_SETATTR = -100, 0x8000, 1, 442
_LAST_FAMILY = 45
_SET_ID_BITS = (0o4000, 0o2000)
_REALTIME = (1, 2, 6)

Unit = dict[str, list[str]]


def read_unit(path: str | Path, section: str = "Service") -> Unit:
    """The assignments of one section, in order. No line continuations, no specifiers."""
    found: Unit = {}
    inside = False
    for raw in Path(path).read_text().splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def main() -> None:
    unit = read_unit(sys.argv[1])
    unknown = set(unit).difference(_MANAGERS_OWN.split(), _APPLIED.split(), _IMPLIED.split())
    if unknown:
        sys.exit(f"as_unit: not known here, and so not tried: {', '.join(sorted(unknown))}")
    command = shlex.split(unit[sys.argv[2]][int(sys.argv[3])])
    account = pwd.getpwnam(_one(unit, "User", "root"))
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "LANG": "C.UTF-8",
    }
    environ |= _environment(unit) | dict(pair.split("=", 1) for pair in sys.argv[4:])
    own = _make_folders(unit, account, environ)
    filters = _filters(unit)
    _make_view(unit, own)
    os.umask(int(_one(unit, "UMask", "0022"), 8))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(int(_one(unit, "LimitNOFILE", "1024")), hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    os.chdir("/")
    _drop_rights(unit, account, environ, filters, command)


def _one(unit: Unit, name: str, otherwise: str) -> str:
    return unit.get(name, [otherwise])[-1]


def _on(unit: Unit, name: str) -> bool:
    return _one(unit, name, "no") not in ("no", "false")


def _environment(unit: Unit) -> dict[str, str]:
    """Of the files that are there; plain lines, NAME=VALUE."""
    paths = [Path(each.removeprefix("-")) for each in unit.get("EnvironmentFile", [])]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if "=" in line)


# -- files -----------------------------------------------------------------------------------------


def _make_folders(unit: Unit, account: pwd.struct_passwd, environ: dict[str, str]) -> list[str]:
    made = []
    for name, above in _FOLDERS.items():
        for each in unit.get(name, []):
            path = f"{above}/{each}"
            os.makedirs(path, exist_ok=True)
            os.chmod(path, int(_one(unit, f"{name}Mode", "0755"), 8))
            os.chown(path, account.pw_uid, account.pw_gid)
            environ[f"{name.removesuffix('Directory').upper()}_DIRECTORY"] = path
            made.append(path)
    return made


def _make_view(unit: Unit, own: list[str]) -> None:
    """The file system as the service sees it, in a mount namespace of its own."""
    _call("unshare", _CLONE_NEWNS)
    _mount("--make-rprivate", "/")
    writable = own + [path for line in unit.get("ReadWritePaths", []) for path in line.split()]
    for path in writable:
        _mount("--bind", path, path)
    read_only = [path.lstrip("-") for line in unit.get("ReadOnlyPaths", []) for path in line.split()]
    if _one(unit, "ProtectSystem", "no") == "strict":
        _set_read_only("/", True)
        for path in ("/dev", "/proc", *writable):
            _set_read_only(path, False)
    for path in filter(os.path.isdir, read_only):
        _mount("--bind", path, path)
        _set_read_only(path, True)
    if _one(unit, "ProtectProc", "default") != "default":
        _mount("-t", "proc", "-o", f"hidepid={_one(unit, 'ProtectProc', '')}", "proc", "/proc")
    if _on(unit, "ProtectKernelTunables"):
        _mount("--bind", "/proc/sys", "/proc/sys")
        for path in ("/proc/sys", "/sys"):
            _set_read_only(path, True)
    hidden = ["/home", "/root", "/run/user"] if _on(unit, "ProtectHome") else []
    hidden += ["/usr/lib/modules"] if _on(unit, "ProtectKernelModules") else []
    for path in filter(os.path.isdir, hidden):
        _mount("-t", "tmpfs", "-o", "ro,mode=0000", "tmpfs", path)
    if _on(unit, "PrivateTmp"):
        for path in ("/tmp", "/var/tmp"):
            _mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", path)
    if _on(unit, "PrivateDevices"):
        _make_devices(Path(tempfile.mkdtemp()))


def _make_devices(folder: Path) -> None:
    _mount("-t", "tmpfs", "-o", "mode=0755,nosuid,noexec", "tmpfs", str(folder))
    for name in _DEVICES:
        at = folder / name
        at.mkdir() if os.path.isdir(f"/dev/{name}") else at.touch()
        _mount("--bind", f"/dev/{name}", str(at))
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        (folder / name).symlink_to(f"/proc/self/fd{target}")
    _mount("--move", str(folder), "/dev")
    folder.rmdir()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)


def _set_read_only(path: str, on: bool) -> None:
    """With everything mounted below."""
    change = (ctypes.c_uint64 * 4)(_RDONLY if on else 0, 0 if on else _RDONLY, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(change))
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, change, size)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{arguments}: {os.strerror(code)}")


# -- system calls ----------------------------------------------------------------------------------


@dataclass
class _Filters:
    """What is refused, found out while this process may still run programs."""

    allowed: list[str]
    families: list[int]
    namespaces: bool
    modes: bool
    personality: bool
    realtime: bool


def _filters(unit: Unit) -> _Filters:
    names = [name for line in unit.get("RestrictAddressFamilies", []) for name in line.split()]
    return _Filters(
        allowed=_allowed_calls(unit.get("SystemCallFilter", [])),
        families=[int(getattr(socket, name)) for name in names],
        namespaces=_on(unit, "RestrictNamespaces"),
        modes=_on(unit, "RestrictSUIDSGID"),
        personality=_on(unit, "LockPersonality"),
        realtime=_on(unit, "RestrictRealtime"),
    )


def _allowed_calls(lines: list[str]) -> list[str]:
    """The first line allows, those with ~ take away, as systemd reads them; none means no filter."""
    sets: dict[str, list[str]] = {}
    name = ""
    listed = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"], check=True, capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            name = line.strip()
            sets[name] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            sets[name].append(line.strip())

    def expand(word: str) -> set[str]:
        if not word.startswith("@"):
            return {word}
        return {call for each in sets[word] for call in expand(each)}

    allowed = expand("@default") if lines else set()
    for line in lines:
        calls = {call for word in line.lstrip("~").split() for call in expand(word)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return sorted(allowed)


class _Compare(ctypes.Structure):
    """`struct scmp_arg_cmp` of libseccomp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NE, _EQ, _GT, _MASKED = 1, 4, 6, 7


class _Rules:
    """One filter being made: `otherwise` is what happens to calls that no rule names."""

    def __init__(self, otherwise: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = [ctypes.c_uint32]
        self._lib.seccomp_load.argtypes = [ctypes.c_void_p]
        add = self._lib.seccomp_rule_add_array
        add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
        self._context = self._lib.seccomp_init(otherwise)

    def allow(self, call: str) -> None:
        self._add(_ALLOW, call)

    def refuse(self, call: str, code: int, *compares: tuple[int, int, int, int]) -> None:
        """When every comparison (argument, operator, value or mask, value) holds."""
        self._add(_ERRNO | code, call, *compares)

    def _add(self, action: int, call: str, *compares: tuple[int, int, int, int]) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # of another architecture, or newer than the library
        compared = (_Compare * len(compares))(*(_Compare(*each) for each in compares))
        if self._lib.seccomp_rule_add_array(self._context, action, number, len(compares), compared) != 0:
            raise OSError(f"seccomp: no rule for {call}")

    def load(self) -> None:
        if self._lib.seccomp_load(self._context) != 0:
            raise OSError("seccomp: the filter was not taken")


def _load(filters: _Filters) -> None:
    """Take up the filters, for this process and all it becomes or starts."""
    details = _Rules(_ALLOW)
    if filters.families:
        for family in set(range(1, _LAST_FAMILY + 1)).difference(filters.families):
            details.refuse("socket", errno.EAFNOSUPPORT, (0, _EQ, family, 0))
        details.refuse("socket", errno.EAFNOSUPPORT, (0, _GT, _LAST_FAMILY, 0))
    if filters.namespaces:
        details.refuse("clone3", errno.ENOSYS)
        details.refuse("setns", errno.EPERM)
        details.refuse("unshare", errno.EPERM)
        for flag in _NAMESPACES:
            details.refuse("clone", errno.EPERM, (0, _MASKED, flag, flag))
    if filters.modes:
        for bit in _SET_ID_BITS:
            for call, at in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdir", 1), ("mkdirat", 2)):
                details.refuse(call, errno.EPERM, (at, _MASKED, bit, bit))
    if filters.personality:
        details.refuse("personality", errno.EPERM, (0, _NE, 0, 0))
    if filters.realtime:
        for policy in _REALTIME:
            details.refuse("sched_setscheduler", errno.EPERM, (1, _EQ, policy, 0))
    calls = _Rules(_KILL)
    for name in filters.allowed:
        calls.allow(name)
    details.load()
    if filters.allowed:
        calls.load()


# -- rights ----------------------------------------------------------------------------------------


def _drop_rights(
    unit: Unit,
    account: pwd.struct_passwd,
    environ: dict[str, str],
    filters: _Filters,
    command: list[str],
) -> None:
    """Become the user, by setpriv; then, as that user, `_finish`: this file may be out of sight by now."""

    def spelled(name: str) -> str:
        names = [cap.lower().removeprefix("cap_") for line in unit.get(name, []) for cap in line.split()]
        return ",".join(["-all", *(f"+{cap}" for cap in names)])

    arguments = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
    if "CapabilityBoundingSet" in unit:
        arguments.append(f"--bounding-set={spelled('CapabilityBoundingSet')}")
    arguments += [f"--inh-caps={spelled('AmbientCapabilities')}"]
    arguments += [f"--ambient-caps={spelled('AmbientCapabilities')}"]
    if _on(unit, "NoNewPrivileges"):
        arguments.append("--no-new-privs")
    arguments += ["/usr/bin/python3", "-I", "-c", _SOURCE, "--finish", json.dumps([asdict(filters), command])]
    os.execvpe("setpriv", arguments, environ)


def _finish(text: str) -> None:
    filters, command = json.loads(text)
    environ = dict(os.environ)
    if "WATCHDOG_USEC" in environ:
        environ["WATCHDOG_PID"] = str(os.getpid())
    _load(_Filters(**filters))
    os.execve(command[0], command, environ)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--finish"]:
        _finish(sys.argv[2])
    else:
        _SOURCE = Path(__file__).read_text()
        main()
