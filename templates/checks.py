"""Whether a launch's parameters are usable, found out before anything is started."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from templates import arguments, metadata
from templates.parameters import TEMPLATES
from transforms.errors import UsageError, rejected

# Files that a pipeline opens when it looks at its arguments; who launches may not be allowed to.
_READ_WHEN_PARSED = ("guards",)


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """``name=value`` as given on a command line.

    Raises:
      UsageError: there is no = in one, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise rejected("--parameters", text, "name=value, the whole of it quoted where it has spaces or ;")
        if name in found:
            raise UsageError(f"--parameters {name} was given as {found[name]!r} and as {value!r}: accepted is one")
        found[name] = value
    return found


def checked(name: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters to launch a template with: those that are not empty.

    Held against metadata.json, as the service does, and then judged by the pipeline itself, which also knows what goes
    with what. Nothing in Cloud Storage is looked at.

    Raises:
      UsageError: one is unknown, missing or not usable.
    """
    known = {parameter["name"]: parameter for parameter in metadata.read(name)["parameters"]}
    for unknown in parameters.keys() - known.keys():
        raise _unknown(name, unknown, known)
    given = {parameter: value for parameter, value in parameters.items() if value}
    for parameter, described in known.items():
        accepted = TEMPLATES[name].offered[parameter].kind.accepted
        if parameter not in given:
            if not described["isOptional"]:
                raise UsageError(f"the template {name} needs --parameters {parameter}=...: accepted is {accepted}")
        elif not all(re.fullmatch(regex, given[parameter]) for regex in described["regexes"]):
            raise rejected(f"--parameters {parameter}", given[parameter], accepted)
    arguments.parse(name, arguments.translated(name, {k: v for k, v in given.items() if k not in _READ_WHEN_PARSED}))
    return given


def _unknown(name: str, parameter: str, known: Iterable[str]) -> UsageError:
    withheld = TEMPLATES[name].withheld
    if parameter in withheld:
        return UsageError(f"--parameters {parameter} is not offered by the template {name}: {withheld[parameter]}")
    alike = difflib.get_close_matches(parameter, known, n=1)
    meant = f"did you mean {alike[0]}?" if alike else f"accepted are {', '.join(known)}"
    return UsageError(f"--parameters {parameter} is unknown to the template {name}: {meant}")
