"""botocore's model of the service as functions: what is wrong with a request or a response, and a response as boto3 gives it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import botocore.session

from orchestration.refresh.local_personalize.patterns import whole_match
from transforms.errors import one_line

# Where in the value, and what is wrong there. None: nothing is.
Problem = tuple[str, str]
Check = Callable[[Any], Problem | None]
Convert = Callable[[Any], Any]
LONGEST_SHOWN = 100  # characters of a refused value


@functools.cache
def service_model() -> Any:
    """botocore's ServiceModel of Amazon Personalize."""
    return botocore.session.get_session().get_service_model("personalize")


def _unmet(value: Any, constraint: str, sensitive: bool = False) -> Problem:
    shown = "(not shown)" if sensitive else f"'{one_line(str(value), LONGEST_SHOWN)}'"
    return "", f"{shown} failed to satisfy constraint: {constraint}"


def _size_problem(size: int, low: int, high: float, value: Any, kind: str, sensitive: bool) -> Problem | None:
    if size < low:
        return _unmet(value, f"Member must have {kind} greater than or equal to {low}", sensitive)
    if size > high:
        return _unmet(value, f"Member must have {kind} less than or equal to {high}", sensitive)
    return None


def _string(shape: Any, patterned: bool = True) -> Check:
    limits, sensitive = shape.metadata, bool(shape.metadata.get("sensitive"))
    low, high, pattern = limits.get("min", 0), limits.get("max", math.inf), limits.get("pattern")
    enum = frozenset(limits.get("enum", ()))

    def check(value: Any) -> Problem | None:
        if not isinstance(value, str):
            return _unmet(value, "Member must be a string", sensitive)
        if not low <= len(value) <= high:
            return _size_problem(len(value), low, high, value, "length", sensitive)
        if enum and value not in enum:
            return _unmet(value, f"Member must satisfy enum value set: [{', '.join(sorted(enum))}]", sensitive)
        if patterned and pattern and not whole_match(pattern)(value):
            return _unmet(value, f"Member must satisfy regular expression pattern: {pattern}", sensitive)
        return None

    return check


def _number(shape: Any) -> Check:
    whole = shape.type_name in ("integer", "long")
    low, high = shape.metadata.get("min", -math.inf), shape.metadata.get("max", math.inf)
    name = "an integer" if whole else "a number"

    def check(value: Any) -> Problem | None:
        if not isinstance(value, int | float) or isinstance(value, bool) or (whole and not isinstance(value, int)):
            return _unmet(value, f"Member must be {name}")
        if not math.isfinite(value):
            return _unmet(value, f"Member must be {name}")
        if value < low:
            return _unmet(value, f"Member must have value greater than or equal to {low}")
        if value > high:
            return _unmet(value, f"Member must have value less than or equal to {high}")
        return None

    return check


def _boolean(_shape: Any) -> Check:
    return lambda value: None if isinstance(value, bool) else _unmet(value, "Member must be a boolean")


def _within(problem: Problem, place: str) -> Problem:
    inner, text = problem
    return (f"{place}.{inner}" if inner else place), text


def _list(shape: Any) -> Check:
    member = _check_of(shape.member)
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max", math.inf)

    def check(value: Any) -> Problem | None:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return _unmet(value, "Member must be a list")
        if not low <= len(value) <= high:
            return _size_problem(len(value), low, high, value, "length", False)
        for index, each in enumerate(value, 1):
            if problem := member(each):
                return _within(problem, f"{index}.member")
        return None

    return check


def _map(shape: Any) -> Check:
    key_check, value_check = _check_of(shape.key), _check_of(shape.value)
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max", math.inf)

    def check(value: Any) -> Problem | None:
        if not isinstance(value, Mapping):
            return _unmet(value, "Member must be a map")
        if not low <= len(value) <= high:
            return _size_problem(len(value), low, high, value, "length", False)
        for key, each in value.items():
            if problem := key_check(key) or value_check(each):
                return _within(problem, f"{key}")
        return None

    return check


def _member(name: str, shape: Any) -> Check:
    # The model gives the role of an import's description the pattern of Personalize's own ARNs, which no role has.
    return _string(shape, patterned=False) if (name, shape.name) == ("roleArn", "Arn") else _check_of(shape)


def _structure(shape: Any) -> Check:
    members = {name: _member(name, member) for name, member in shape.members.items()}
    required = tuple(shape.required_members)

    def check(value: Any) -> Problem | None:
        if not isinstance(value, Mapping):
            return _unmet(value, "Member must be a structure")
        for name in required:
            if name not in value:
                return name, "null failed to satisfy constraint: Member must not be null"
        for name, each in value.items():
            member = members.get(name)
            if member is None:
                return str(name), f"is an unknown member: accepted are {', '.join(members) or 'none'}"
            if problem := member(each):
                return _within(problem, name)
        return None

    return check


_CHECKS: dict[str, Callable[[Any], Check]] = {
    "string": _string,
    "integer": _number,
    "long": _number,
    "float": _number,
    "double": _number,
    "timestamp": _number,  # epoch seconds, as JSON has it
    "boolean": _boolean,
    "list": _list,
    "map": _map,
    "structure": _structure,
}


def _check_of(shape: Any) -> Check:
    return _CHECKS[shape.type_name](shape)


def _dates_of(shape: Any) -> Convert | None:
    """What turns the timestamps under a shape into datetimes; None where there are none."""
    if shape.type_name == "timestamp":
        return lambda value: datetime.fromtimestamp(value, UTC)
    if shape.type_name == "list":
        member = _dates_of(shape.member)
        return member and (lambda value: [member(each) for each in value])
    if shape.type_name != "structure":
        return None
    found = {name: convert for name, each in shape.members.items() if (convert := _dates_of(each))}
    if not found:
        return None
    return lambda value: {name: found[name](each) if name in found else each for name, each in value.items()}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the model, compiled."""

    name: str
    errors: frozenset[str]  # the codes its own handler may answer with
    input_check: Check
    output_check: Check
    with_dates: Convert

    def problem(self, parameters: Mapping[str, Any]) -> str | None:
        """One line about the first thing wrong with a request, or None."""
        found = self.input_check(parameters)
        if found is None:
            return None
        place, text = found
        return f"1 validation error detected: Value at '{place}': {text}"

    def must_fit(self, response: Mapping[str, Any]) -> None:
        """Raises RuntimeError for a response that the model does not know: a defect of the stand-in."""
        if found := self.output_check(response):
            raise RuntimeError(f"{self.name} answered against the service model: {found[0]} {found[1]}")


def _nothing(value: Any) -> Problem | None:
    return (next(iter(value)), "is an unknown member: accepted are none") if value else None


@functools.cache
def operation(name: str) -> Operation | None:
    """The compiled operation, None when the service has none of that name."""
    if name not in service_model().operation_names:
        return None
    model = service_model().operation_model(name)
    reads, answers = model.input_shape, model.output_shape
    return Operation(
        name,
        frozenset(error.name for error in model.error_shapes),
        _check_of(reads) if reads else _nothing,
        _check_of(answers) if answers else _nothing,
        (_dates_of(answers) if answers else None) or dict,
    )
