"""What a launch says to Beam: ``--name=value`` texts, as Beam's own parser takes them.

Dataflow's launcher knows pairs of texts only, adds some of its own, and says nothing of which Beam they are for.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence

from transforms.errors import UsageError, rejected

# As near as a slip of the finger, and no nearer: Google's own names must not be taken for ours.
_ALIKE = 0.8


def translated(argv: Sequence[str], ours: Iterable[str]) -> list[str]:
    """Beam's arguments, of what is left when those of the pipeline are taken out.

    ``--flag=true`` and ``--flag=false`` become what means that to Beam. A ``--name=value`` that Beam does not know is
    left out with one line on stderr: Google's launcher may be newer than Beam. All else stays as and where it is.

    Args:
      ours: the names of the pipeline's arguments, to tell a mistyped one from an unknown one.

    Raises:
      UsageError: a mistyped argument of the pipeline, or a flag that is neither true nor false or cannot be false.
    """
    options, names = parser()._option_string_actions, list(ours)
    found: list[str] = []
    for given in argv:
        option, separator, value = given.partition("=")
        action = options.get(option)
        if not separator or not option.startswith("--"):
            found.append(given)
        elif action is None:
            _require_foreign(given, names)
            print(f"warning: {option} is left out: Beam does not know it", file=sys.stderr)
        elif action.nargs == 0:
            found = _with_flag(found, option, value, action, options.values())
        else:
            found.append(given)
    return found


def parser() -> argparse.ArgumentParser:
    """Beam's own, with the options of every runner and connector."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    return parsers[0]


def _require_foreign(given: str, ours: Sequence[str]) -> None:
    name = given.removeprefix("--").partition("=")[0]
    if alike := difflib.get_close_matches(name.replace("-", "_"), ours, n=1, cutoff=_ALIKE):
        raise UsageError(f"{given!r} is known neither to this template nor to Beam: did you mean --{alike[0]}?")


def _with_flag(
    before: list[str], option: str, value: str, action: argparse.Action, every: Iterable[argparse.Action]
) -> list[str]:
    """The arguments so far and what has the flag be as the value says; one left empty counts as not given."""
    if not value:
        return before
    if value.lower() not in ("true", "false"):
        raise rejected(option, value, "true or false")
    if value.lower() == "true":
        return [*before, option]
    same = [each for each in every if each.dest == action.dest and each.nargs == 0]
    opposite = [each.option_strings[-1] for each in same if each.const is (not action.const)]
    if opposite:
        return [*before, opposite[0]]
    if action.default is not (not action.const):
        raise UsageError(f"{option}={value} is not usable: Beam has no way to turn it off, accepted is true")
    return [each for each in before if each != option]  # the last word counts, as everywhere
