"""Labels of jobs and data in Google Cloud: the rules that BigQuery and Dataflow share, stricter where theirs differ."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transforms.errors import rejected

MOST_CHARACTERS = 63
ACCEPTED = "key=value of lower-case letters, digits, - and _, the key starting with a letter, each of at most 63"
_KEY, _VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")


def checked(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The labels that ``--labels`` gives.

    Raises:
      UsageError: one breaks the rules, or two have the same key.
    """
    labels: dict[str, str] = {}
    for key, value in pairs:
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise rejected("--labels", f"{key}={value}", ACCEPTED)
        if key in labels:
            raise rejected("--labels", f"{key}={labels[key]} and {key}={value}", "each key once")
        labels[key] = value
    return labels


def pair(text: str) -> tuple[str, str]:
    """``key=value`` as two texts.

    Raises:
      UsageError: there is no = in it.
    """
    key, separator, value = text.strip().partition("=")
    if not separator:
        raise rejected("--labels", text, ACCEPTED)
    return key, value


def value(text: str) -> str:
    """Any text as a label's value."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:MOST_CHARACTERS]
