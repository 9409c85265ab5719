"""Errors as answers: one table from the kind of error to its status, and the texts Consul's clients match."""

from __future__ import annotations

from gemot.agent.http.message import Response
from gemot.server.model import errors

_STATUS: dict[type[errors.GemotError], int] = {
    errors.GemotError: 500,
    errors.BadRequest: 400,
    errors.TooLarge: 413,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Forgotten: 410,
    errors.Conflict: 422,
    errors.RuleFailed: 500,
    errors.Unavailable: 500,
    errors.Busy: 503,
    errors.OutcomeUnknown: 500,
    errors.PeerBroke: 500,
    errors.StorageFailed: 500,
}
"""The nearest class above an error that stands here gives the status. 500 for "no leader" is Consul's."""

_OUTCOME_HEADER = "X-Gemot-Outcome"
"""On a failed write: `unknown` (perhaps done) or `not-done` (surely not); absent on refusals."""


def status_of(error: errors.GemotError) -> int:
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def to_response(error: errors.GemotError) -> Response:
    headers: dict[str, str] = {}
    text = error.message
    if isinstance(error, errors.OutcomeUnknown):
        headers[_OUTCOME_HEADER] = "unknown"
        text = f"Outcome unknown: {text or 'the write may or may not have been done'}"
    elif isinstance(error, errors.Unavailable):
        headers[_OUTCOME_HEADER] = "not-done"
        if isinstance(error, errors.NotLeader) or not text:
            text = "No cluster leader"
        if isinstance(error, errors.Busy):
            headers["Retry-After"] = "1"
    return Response(status=status_of(error), body=text.encode("utf-8", "replace"), headers=headers)
