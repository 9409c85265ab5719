"""Names as they are compared, and byte prefixes as ranges."""

from __future__ import annotations


def fold(name: str) -> str:
    """The name under which nodes, services and checks are found: ASCII capitals made small.

    Only ASCII: the rest of Unicode's case rules change between releases of Python, and every server
    must find the same rows.
    """
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def topic_key(*names: str) -> bytes:
    """Folded names as one key of bytes, NUL between them."""
    return b"\0".join(name.encode("utf-8", "surrogatepass").lower() for name in names)


def end_of_prefix(prefix: bytes) -> bytes | None:
    """The first key behind every key that starts with `prefix`; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return None
    return stem[:-1] + bytes((stem[-1] + 1,))


def cut_name(key: bytes, start: int, separator: bytes) -> bytes:
    """The key up to and with the first separator from `start` on; all of it where there is none."""
    at = key.find(separator, start)
    return key if at < 0 else key[: at + len(separator)]
