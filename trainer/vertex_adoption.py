"""Whether a job that is there already may stand for the one that is asked for: is its output there, and does it do the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transforms import storage
from transforms.errors import JobFailed, one_line

if TYPE_CHECKING:
    from trainer.vertex_jobs import JobRequest

# The argument that says what a job of the module leaves. A promotion without a decision file leaves nothing that would
# tell, half a year later, that it need not be looked at again.
_OUTPUTS = {"trainer.task": "--output", "trainer.report": "--output", "trainer.registry": "--decision"}
PACKAGE_VARIABLE = "CLV_PACKAGE"  # of the job's machine: the code it installs
_MOST_CHARACTERS = 120  # of an argument in an error


def output_of(request: JobRequest) -> str | None:
    """Where the request's job leaves what it makes, a directory or a file; None where that is not known."""
    if request.output is not None:
        return request.output
    flag = _OUTPUTS.get(request.module)
    return None if flag is None else _value(request.arguments, flag)


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """What an argument is given as, the last time."""
    found = None
    for word, after in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name == flag:
            found = value if equals else after
    return found


def missing_output(request: JobRequest) -> str | None:
    """Why a job of the request that has succeeded is not enough, in words; None where its output is there.

    Raises:
      JobFailed: the place could not be looked at.
    """
    output = output_of(request)
    if output is None:
        return "nothing that it leaves is known here"
    return None if _is_complete(output) else f"{output} is not there, or not finished"


def _is_complete(output: str) -> bool:
    """Whether a file is there, or a directory with its manifest."""
    from pyarrow import fs

    filesystem, path = storage.resolve(output)
    try:
        found = filesystem.get_file_info([path, f"{path}/{storage.MANIFEST}"])
    except OSError as error:
        raise JobFailed(f"looking for {output}, which a job before has made: {one_line(str(error))}") from error
    return any(each.type == fs.FileType.File for each in found)


def difference(there: Any, asked: Mapping[str, Any]) -> str | None:
    """What a job does that was not asked for, in words; None where it does the same. Its machine is no matter.

    Args:
      there: a job of either kind as the client has it.
      asked: the content of a new one.
    """
    is_tuning = "trial_job_spec" in asked
    spec, field = (there.trial_job_spec, "trial_job_spec") if is_tuning else (there.job_spec, "job_spec")
    found, wanted = spec.worker_pool_specs[0].container_spec, asked[field]["worker_pool_specs"][0]["container_spec"]
    variables = {each.name: each.value for each in found.env}
    asked_variables = {each["name"]: each["value"] for each in wanted["env"]}
    facts: dict[str, tuple[Any, Any]] = {
        "the image": (found.image_uri, wanted["image_uri"]),
        "the module": (found.command[-1], wanted["command"][-1]),
        "the package": (variables.get(PACKAGE_VARIABLE), asked_variables.get(PACKAGE_VARIABLE)),
        "the number of trials": (there.max_trial_count, asked["max_trial_count"]) if is_tuning else (None, None),
        "the arguments": _where_they_part(list(found.args), wanted["args"]),
    }
    parted = (f"{what} {_shown(one)}, not {_shown(other)}" for what, (one, other) in facts.items() if one != other)
    return next(parted, None)


def _where_they_part(one: Sequence[str], other: Sequence[str]) -> tuple[str | None, str | None]:
    """The first argument with its values that only one has, or that each has another of; None at the end."""
    ours, theirs = _by_flag(one), _by_flag(other)
    for at in range(max(len(ours), len(theirs))):
        pair = [each[at] if at < len(each) else None for each in (ours, theirs)]
        if pair[0] != pair[1]:
            return pair[0], pair[1]
    return None, None


def _by_flag(arguments: Sequence[str]) -> list[str]:
    """Each flag with the words behind it."""
    found: list[str] = []
    for word in arguments:
        if found and not word.startswith("--"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _shown(value: Any) -> str:
    return "none" if value is None else one_line(str(value), _MOST_CHARACTERS)
