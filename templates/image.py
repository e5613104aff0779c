"""Names of container images: only pinned ones are accepted, since a template must mean the same tomorrow."""

from __future__ import annotations

import re

from transforms.errors import UsageError, rejected

ACCEPTED = (
    "a full name with a tag other than latest, such as europe-west1-docker.pkg.dev/my-project/clv/publish:2026-11-22"
)
# Docker's grammar: a registry's host, a path of lower-case words, a tag, a digest.
_NAME = re.compile(
    r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)+"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?"
)


def require_pinned(argument: str, name: str) -> str:
    """The name itself.

    Raises:
      UsageError: it is no image's full name, or tomorrow it may name another image; or it has a digest, which the
        workers would not follow.
    """
    found = _NAME.fullmatch(name)
    if found and found["digest"]:
        raise UsageError(
            f"{argument} {name!r} is not usable: workers follow the name the image was built under, and a digest "
            "is not known then; accepted is a tag alone, in a repository whose tags are immutable"
        )
    if found is None or found["tag"] in (None, "latest"):
        raise rejected(argument, name, ACCEPTED)
    return name
