"""What can go wrong with a template once its definition is sound."""

from __future__ import annotations

from gemot.server.model.errors import GemotError


class TemplateFailed(GemotError):
    """It cannot be compiled, evaluated, or put in place; the file it renders to is as it was.

    `message` names the template's file and line where there is one.
    """

    code = "template-failed"


class CommandFailed(TemplateFailed):
    """The files are written, and the command that was to follow failed."""

    code = "template-command-failed"
