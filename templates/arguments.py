"""A template's parameters as its pipeline's arguments.

Dataflow knows parameters as pairs of texts. A flag is given as ``name=true``, an argument that may be repeated as one
text with ``;`` between the values, and one that was left empty in the console as ``name=``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from templates.parameters import SEPARATOR, TEMPLATES, Template
from transforms.cli import ArgumentParser
from transforms.errors import UsageError, rejected


def template(name: str, argument: str = "the template") -> Template:
    """Raises: UsageError for a name that no template has."""
    if name not in TEMPLATES:
        raise rejected(argument, name, ", ".join(TEMPLATES))
    return TEMPLATES[name]


def parser(name: str) -> ArgumentParser:
    """The parser of a template's pipeline."""
    if name == "publish":
        from pipelines import publish_options

        return publish_options.parser()
    if name == "features":
        from pipelines import features

        return features.parser()
    if name == "interactions":
        from pipelines import interactions

        return interactions.parser()
    from pipelines import predict

    return predict.parser()


def parse(name: str, argv: list[str]) -> None:
    """Has a template's pipeline judge its arguments, as it does first of all where it runs.

    Raises:
      UsageError: one is missing or not usable, or two do not go together.
    """
    if name == "publish":
        from pipelines import publish_options

        publish_options.parse(argv)
    elif name == "features":
        from pipelines import features

        features.FeaturesOptions.parse(argv)
    elif name == "interactions":
        from pipelines import interactions

        interactions.InteractionsOptions.parse(argv)
    else:
        from pipelines import predict

        predict.PredictOptions.parse(argv)


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """A parser's arguments by name, but ``--help``; argparse has no public way to ask."""
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0


def is_repeatable(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def translated(name: str, parameters: Mapping[str, str]) -> list[str]:
    """The pipeline's arguments that these parameters of its template mean.

    Raises:
      UsageError: one that the template does not have, or a flag that is neither true nor false.
    """
    known, withheld = actions(parser(name)), template(name).withheld
    given: list[str] = []
    for parameter, value in parameters.items():
        if parameter in withheld:
            raise UsageError(f"--{parameter} is not offered by the template {name}: {withheld[parameter]}")
        if parameter not in known:
            raise rejected("the parameter", parameter, f"one of {', '.join(TEMPLATES[name].offered)}")
        if value:
            given += _arguments(known[parameter], parameter, value)
    return given


def _arguments(action: argparse.Action, name: str, value: str) -> Iterable[str]:
    if is_flag(action):
        return flag(name, value)
    values = [part.strip() for part in value.split(SEPARATOR)] if is_repeatable(action) else [value]
    return [f"--{name}={each}" for each in values]


def flag(name: str, value: str) -> list[str]:
    """Raises: UsageError for what is neither true nor false."""
    if value.lower() not in ("true", "false"):
        raise rejected(f"--{name}", value, "true or false")
    return [f"--{name}"] if value.lower() == "true" else []
