"""The entry that Dataflow's launcher starts inside a template's image: makes a template's parameters the arguments of
its pipeline, adds the image it runs in, so that the workers run the same one, and starts the pipeline, which submits its
job and does not wait for it.

The image says by CLV_TEMPLATE which pipeline that is and by CLV_IMAGE its own full name. Flags are given as
--stage_only=true, the values of an argument that may be repeated as --override=GUARD=REASON;GUARD=REASON, and empty
values count as not given. Everything else (--runner, --project, --template_location, ...) goes to Beam, with its flags
as true or false too; what Beam does not know is left out with a warning.

example, as Dataflow starts it:
  python /template/launcher.py --predictions=gs://shop/predictions/2011-12-10 --dead_letters=gs://shop/dead_letters \\
      --serving=datastore://my-project --stage_only=true --runner=DataflowRunner --project=my-project \\
      --region=europe-west1 --job_name=publish-1 --temp_location=gs://shop/temp \\
      --template_location=gs://shop/temp/template_launches/1/job_object
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from templates import arguments, beam_arguments, image
from templates.parameters import TEMPLATES
from transforms.cli import ArgumentParser, exit_code
from transforms.errors import UsageError, rejected

TEMPLATE, IMAGE = "CLV_TEMPLATE", "CLV_IMAGE"
_SDK_IMAGE = "sdk_container_image"


def pipeline_arguments(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The pipeline's arguments, of what Dataflow's launcher gave.

    Raises:
      UsageError: an argument cannot be translated, or the image does not say what it is.
    """
    name = template_name(environment)
    known = {*arguments.actions(arguments.parser(name)), *TEMPLATES[name].withheld}
    parameters: dict[str, str] = {}
    others: list[str] = []
    for given in argv:
        parameter, separator, value = given.removeprefix("--").partition("=")
        if not given.startswith("--") or parameter not in known:
            others.append(given)
        elif not separator:
            raise rejected("the argument", given, f"--{parameter}=value; a flag is true or false")
        elif parameter in parameters:
            raise UsageError(f"--{parameter} was given as {parameters[parameter]!r} and as {value!r}: accepted is one")
        else:
            parameters[parameter] = value
    others = beam_arguments.translated(others, known)
    if not any(given.startswith(f"--{_SDK_IMAGE}=") for given in others):
        others.append(f"--{_SDK_IMAGE}={image_name(environment)}")
    return arguments.translated(name, parameters) + others


def template_name(environment: Mapping[str, str]) -> str:
    """Raises: UsageError where the image names no template."""
    name = environment.get(TEMPLATE, "")
    arguments.template(name, f"the environment variable {TEMPLATE}")
    return name


def image_name(environment: Mapping[str, str]) -> str:
    """Raises: UsageError where the image does not know its own name, or it is not pinned."""
    return image.require_pinned(f"the environment variable {IMAGE}", environment.get(IMAGE, ""))


def start(name: str, argv: list[str]) -> int:
    """Runs a template's pipeline and returns its exit code."""
    if name == "publish":
        from pipelines import publish

        return publish.main(argv)
    if name == "features":
        from pipelines import features

        return features.main(argv)
    if name == "interactions":
        from pipelines import interactions

        return interactions.main(argv)
    from pipelines import predict

    return predict.main(argv)


def main(argv: list[str] | None = None) -> int:
    translated: list[str] = []
    code = exit_code(lambda: translated.extend(_read(argv)))
    return code if code or not translated else start(os.environ[TEMPLATE], translated)


def _read(argv: list[str] | None) -> list[str]:
    parser = ArgumentParser("python /template/launcher.py", description=__doc__)
    parser.add_argument(
        "--check", action="store_true",
        help="print which template and image this is and end; fails where the image was built without saying so",
    )  # fmt: skip
    known, given = parser.parse_known_args(argv)
    if known.check:
        print(template_name(os.environ), image_name(os.environ))
        return []
    return pipeline_arguments(given, os.environ)


if __name__ == "__main__":
    sys.exit(main())
