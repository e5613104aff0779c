"""Names of container images: only pinned ones are accepted, since a template must mean the same tomorrow."""

from __future__ import annotations

import re

from transforms.errors import rejected

ACCEPTED = (
    "a full name with a tag other than latest, or with a digest, such as "
    "europe-west1-docker.pkg.dev/my-project/clv/publish:2026-11-22"
)
# Docker's grammar: a registry's host, a path of lower-case words, a tag, a digest.
_NAME = re.compile(
    r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)+"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?"
)


def require_pinned(argument: str, name: str) -> str:
    """The name itself.

    Raises:
      UsageError: it is no image's full name, or tomorrow it may name another image.
    """
    found = _NAME.fullmatch(name)
    if found is None or not (found["digest"] or (found["tag"] and found["tag"] != "latest")):
        raise rejected(argument, name, ACCEPTED)
    return name
