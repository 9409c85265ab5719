"""Putting rendered bytes in place of a file: all of them or none, and durably.

The bytes go to a file beside the destination, are synced, and are renamed over it; whoever opens the
destination sees the old file or the new one. Blocking: for a worker thread. Any failure leaves the old
file as it was and names what is in the way.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gemot.agent.durable import sync_folder
from gemot.agent.template.definition import TemplateDefinition
from gemot.agent.template.errors import TemplateFailed
from gemot.server.runtime.cause import cause_of

NEW_FILE_MODE = 0o644

_log = logging.getLogger(__name__)

Outcome = Literal["same", "owner", "written"]
"""same: nothing was touched; owner: bytes were the same, mode or owner was put right; written: replaced."""


def swap(
    definition: TemplateDefinition, content: bytes, *, before_rename: Callable[[], None] = lambda: None
) -> Outcome:
    """Make the destination hold `content`, with the mode and owner of the definition.

    `before_rename` is called once the new file is complete and synced, only if its bytes differ from the
    present ones. If it raises, nothing is changed. Raises TemplateFailed.
    """
    destination = definition.destination
    try:
        return _swap(definition, content, before_rename)
    except OSError as error:
        reason = _explain(error, destination)
        raise TemplateFailed(f"{destination}: {reason}; the old file is kept") from error


def sweep(definition: TemplateDefinition) -> None:
    """Remove unfinished files that a crash left beside the destination."""
    folder, prefix = _unfinished(definition.destination)
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        tail = name.removeprefix(prefix)
        if tail != name and len(tail) == 16 and set(tail) <= set("0123456789abcdef"):
            try:
                os.unlink(os.path.join(folder, name))
            except OSError:
                pass  # a fresh name is taken each time: it is only in nobody's way


def resolve_owner(definition: TemplateDefinition) -> tuple[int | None, int | None]:
    """User and group as numbers, None to keep. Raises TemplateFailed for a name this host does not know."""
    try:
        uid = _number(definition.user, lambda name: pwd.getpwnam(name).pw_uid)
    except KeyError:
        raise TemplateFailed(f"user: there is no user {definition.user!r} on this host") from None
    try:
        gid = _number(definition.group, lambda name: grp.getgrnam(name).gr_gid)
    except KeyError:
        raise TemplateFailed(f"group: there is no group {definition.group!r} on this host") from None
    return uid, gid


def _number(account: str, look_up: Callable[[str], int]) -> int | None:
    if not account:
        return None
    return int(account) if account.isdecimal() else look_up(account)


def _swap(definition: TemplateDefinition, content: bytes, before_rename: Callable[[], None]) -> Outcome:
    destination = definition.destination
    present = _present(destination)
    uid, gid = resolve_owner(definition)
    mode = definition.perms
    if present is not None:
        mode = stat.S_IMODE(present.st_mode) if mode is None else mode
        uid = present.st_uid if uid is None else uid
        gid = present.st_gid if gid is None else gid
        if _same_bytes(destination, present, content):
            return _put_right(destination, present, mode, uid, gid)
    mode = NEW_FILE_MODE if mode is None else mode
    folder = os.path.dirname(destination)
    if definition.create_dest_dirs:
        _make_folder(folder)
    staged = _unfinished_name(destination)
    try:
        _write_new(staged, content, mode, uid, gid)
        before_rename()
        if definition.backup and present is not None:
            _keep_backup(destination, _unfinished_name(destination))
        os.rename(staged, destination)
    except BaseException:
        _unlink(staged)
        raise
    try:
        sync_folder(Path(folder))
    except OSError as error:  # the new file is in place: not a failure to be undone
        told = "template: %s is written, but %s cannot be synced: %s"
        _log.warning(told, destination, folder, cause_of(error))
    return "written"


def _present(destination: str) -> os.stat_result | None:
    """What is there now: a regular file, or nothing. Anything else is refused."""
    try:
        found = os.lstat(destination)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode):
        return found
    if stat.S_ISLNK(found.st_mode):
        what = "a symbolic link: name the file it leads to, the link would be replaced"
    elif stat.S_ISDIR(found.st_mode):
        what = "a directory: name a file in it"
    else:
        what = "a device, pipe or socket: only regular files are replaced"
    raise TemplateFailed(f"{destination}: the destination is {what}")


def _same_bytes(path: str, present: os.stat_result, content: bytes) -> bool:
    if present.st_size != len(content):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return False  # not ours to read, perhaps ours to replace
    with open(descriptor, "rb") as file:
        return file.read(len(content) + 1) == content


def _put_right(path: str, present: os.stat_result, mode: int | None, uid: int, gid: int) -> Outcome:
    """Mode and owner of a file whose bytes are as they should be."""
    outcome: Outcome = "same"
    if (present.st_uid, present.st_gid) != (uid, gid):
        os.chown(path, uid, gid, follow_symlinks=False)
        outcome = "owner"
    if mode is not None and (stat.S_IMODE(present.st_mode) != mode or outcome == "owner"):
        os.chmod(path, mode)
        outcome = "owner"
    return outcome


def _make_folder(folder: str) -> None:
    """The folder and those above it, each made durable in the one above."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    os.mkdir(folder, 0o755)
    sync_folder(Path(above))


def _write_new(path: str, content: bytes, mode: int, uid: int | None, gid: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        found = os.fstat(file.fileno())
        if (uid is not None and uid != found.st_uid) or (gid is not None and gid != found.st_gid):
            os.fchown(file.fileno(), -1 if uid is None else uid, -1 if gid is None else gid)
        os.fchmod(file.fileno(), mode)  # after the owner: a change of owner clears bits
        os.fsync(file.fileno())


def _keep_backup(destination: str, link: str) -> None:
    """One generation: a second name for the present file, put in place by a rename."""
    os.link(destination, link, follow_symlinks=False)
    try:
        os.rename(link, destination + ".bak")
    finally:
        _unlink(link)  # a rename onto another name of the same file does nothing and leaves both


def _unfinished(destination: str) -> tuple[str, str]:
    """Folder and first part of the name of files not yet renamed. Short: names end at 255 bytes."""
    folder, name = os.path.split(destination)
    return folder, f".{name[:40]}.gemot-"


def _unfinished_name(destination: str) -> str:
    folder, prefix = _unfinished(destination)
    return os.path.join(folder, prefix + secrets.token_hex(8))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _explain(error: OSError, destination: str) -> str:
    folder = os.path.dirname(destination)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"no space is left for {folder} ({error.strerror})"
        case errno.EFBIG:
            return "the new file is larger than this process may write (its file size limit)"
        case errno.EACCES:
            return f"this process may not write in {folder} (Permission denied): give it that right"
        case errno.EPERM:
            return "this process may not give the file that owner or mode (Operation not permitted)"
        case errno.EROFS:
            return f"{folder} is on a read-only file system"
        case errno.ENOENT:
            return f"the directory {folder} does not exist: make it, or set create_dest_dirs"
        case errno.ENOTDIR | errno.EEXIST:
            return f"a part of {folder} is a file, not a directory"
    return f"cannot be written: {error.strerror or error}"
