"""The one exception that becomes a message for a person instead of a traceback."""

from __future__ import annotations


class VmmError(Exception):
    """Something the user or the environment got wrong: one line saying what, where and what is allowed.

    Chain causes with `raise VmmError(...) from error`; `describe` prints them as StratoVirt does.
    """


def describe(error: BaseException) -> str:
    """Return the message, and its causes as a numbered list (facts 1.2: top message, blank line, `Caused by:`)."""
    causes = []
    cause = error.__cause__
    while cause is not None:
        causes.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    text = str(error)
    if not causes:
        return text
    if len(causes) == 1:
        return f"{text}\n\nCaused by:\n    {causes[0]}"
    numbered = "\n".join(f"    {index}: {cause}" for index, cause in enumerate(causes))
    return f"{text}\n\nCaused by:\n{numbered}"
