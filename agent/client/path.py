"""Names as parts of a URL path, so that the agent finds each byte where it was."""

from __future__ import annotations

from urllib.parse import quote_from_bytes


def escape(name: str | bytes) -> str:
    """Percent-escaped. Slashes stay, unless the path would be cleaned of them (as of `//` and `/./`)."""
    raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    if raw.startswith((b"/", b".")) or b"//" in raw or b"/." in raw:
        return quote_from_bytes(raw, safe="").replace(".", "%2E")
    return quote_from_bytes(raw)
