"""Writes each template's metadata.json: what Dataflow and its console know of the parameters.

Names, help, defaults and whether a parameter must be given come from the pipeline's own parser; label, kind and what
is not offered from ``templates.parameters``. Change one of these, then run this; a test holds the files to it.

example:
  python -m templates.metadata
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from templates import arguments
from templates.parameters import SEPARATOR, TEMPLATES, Parameter
from transforms.cli import ArgumentParser, exit_code

_FOLDER = Path(__file__).resolve().parent


def path(name: str) -> Path:
    return _FOLDER / name / "metadata.json"


def read(name: str) -> dict[str, Any]:
    """A template's metadata as committed."""
    return dict(json.loads(path(name).read_text()))


def metadata(name: str) -> dict[str, Any]:
    """A TemplateMetadata of Dataflow's API, from the pipeline's parser.

    Raises:
      KeyError: an argument of the parser that ``templates.parameters`` says nothing of.
    """
    template = TEMPLATES[name]
    known = arguments.actions(arguments.parser(name))
    return {
        "name": template.title,
        "description": template.description,
        "parameters": [
            _parameter(action, template.offered[name])
            for name, action in known.items()
            if name not in template.withheld
        ],
    }


def text(name: str) -> str:
    return json.dumps(metadata(name), indent=2, ensure_ascii=False) + "\n"


def _parameter(action: argparse.Action, parameter: Parameter) -> dict[str, Any]:
    required = action.required if parameter.required is None else parameter.required
    default = _default(action)
    return {
        "name": action.dest,
        "label": parameter.label,
        "helpText": _help(action, parameter),
        "isOptional": not required,
        "regexes": [parameter.kind.regex],
        "paramType": parameter.kind.param_type,
        **({"defaultValue": default} if default else {}),
    }


def _help(action: argparse.Action, parameter: Parameter) -> str:
    said = parameter.help or (action.help or "") % {**vars(action), "prog": ""}
    several = f" Several are separated by {SEPARATOR}." if arguments.is_repeatable(action) else ""
    return f"{said[:1].upper()}{said[1:]}.{several} Accepted here: {parameter.kind.accepted}."


def _default(action: argparse.Action) -> str:
    if arguments.is_flag(action):
        return str(bool(action.default)).lower()
    return "" if action.default in (None, []) else str(action.default)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> None:
    ArgumentParser("python -m templates.metadata", description=__doc__).parse_args(argv)
    for name in TEMPLATES:
        path(name).parent.mkdir(exist_ok=True)
        path(name).write_text(text(name))
        print(f"{name}: {path(name).relative_to(_FOLDER.parent)}")


if __name__ == "__main__":
    sys.exit(main())
