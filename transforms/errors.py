"""The errors a person is meant to read."""

from __future__ import annotations

from typing import Any


class UsageError(ValueError):
    """A wrong argument or unusable input; the message is one line: what, which value, what is accepted."""


class JobFailed(RuntimeError):
    """Work ended without its output though nothing was wrong with the arguments; one line: what, why, where to read more."""

    exit_code = 1


def one_line(text: str, most: int = 600) -> str:
    """Anybody's message as a part of ours."""
    return " ".join(text.split())[:most]


def rejected(argument: str, value: Any, accepted: str) -> UsageError:
    return UsageError(f"{argument} {value!r} is not usable: accepted is {accepted}")
