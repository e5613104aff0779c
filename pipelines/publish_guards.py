"""The guards before the switch: whether a staged generation may become current, with the figures.

    verdicts = judge(new, current, thresholds, ask_registry(uri, new.model_version))
    judgement = settle(verdicts, parse_overrides(["customers=the Spanish shop was closed"]))
    judgement.require()                       # GuardTripped, or:
    store.switch(new.name, previous, judgement.notes)

The limits are those of ``publish.toml``, with the reasons beside them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.publish_toml import CHAMPION, GUARDS, MODEL_VERSION, Limit, Thresholds
from transforms.errors import JobFailed, UsageError, rejected

if TYPE_CHECKING:
    from serving.store import Generation

NOT_SWITCHED = 3  # the exit code, as the registry's for a challenger that was not promoted


class Outcome(enum.Enum):
    PASSED = "passed"
    TRIPPED = "tripped"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Verdict:
    """What one guard says.

    Attributes:
      figure: what was measured: a share, a multiple, or days; None where nothing was.
      limit: what is accepted, in words.
      text: one line with the figures.
    """

    guard: str
    outcome: Outcome
    figure: float | None
    limit: str
    text: str

    def to_json(self) -> dict[str, Any]:
        figure = self.figure if self.figure is None or math.isfinite(self.figure) else str(self.figure)
        return {**vars(self), "outcome": self.outcome.value, "figure": figure}


@dataclass(frozen=True)
class Answer:
    """What a registry says of a model version.

    Attributes:
      problem: why the version is not one of its own, None where it is.
      champion: the champion's version, None where there is none yet.
    """

    registry: str
    problem: str | None
    champion: str | None


class GuardTripped(JobFailed):
    """A guard that nobody overrode; nothing was switched."""

    exit_code = NOT_SWITCHED

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        flags = " ".join(f"--override {verdict.guard}=REASON" for verdict in verdicts)
        super().__init__(
            f"not switched: {'; '.join(verdict.text for verdict in verdicts)}; "
            f"mend the predictions, or say why they are right: {flags}"
        )
        self.verdicts = tuple(verdicts)


def ask_registry(uri: str, version: str) -> Answer:
    """Looks a model version up.

    Raises:
      UsageError: ``uri`` can be no registry, or its history is damaged.
    """
    from trainer.registry_store import Registry

    registry = Registry(uri)
    champion = registry.champions().version
    try:
        registry.entry(version)
    except UsageError as error:
        return Answer(uri, str(error), champion)
    return Answer(uri, None, champion)


def judge(
    new: Generation, current: Generation | None, thresholds: Thresholds, answer: Answer | None = None
) -> list[Verdict]:
    """One verdict a guard, in the order of ``publish_toml.GUARDS``.

    Args:
      new: with its content and dead letters counted.
      current: what is served now, if anything.
      answer: what the registry says of the new one's model version; None: no registry was named.
    """
    limits = thresholds.limits
    rows = new.content.rows + sum(new.dead_letters.values())
    return [
        _share("dead_letters", sum(new.dead_letters.values()), rows, "rows", limits),
        _share("missing", new.dead_letters.get("missing_value", 0), rows, "rows", limits),
        _share("zeros", new.content.zeros, new.content.rows, "customers", limits),
        _customers(new, current, limits["customers"]),
        _total_value(new, current, limits["total_value"]),
        _as_of(new, current, limits["as_of"]),
        _model_version(new.model_version, thresholds.accepted, answer),
    ]


def _share(guard: str, part: int, whole: int, of: str, limits: Mapping[str, Limit]) -> Verdict:
    limit = limits[guard]
    accepted = limit.spoken(100, "%")
    if not whole:
        return Verdict(guard, Outcome.NOT_APPLICABLE, None, accepted, f"{guard}: there are no {of}")
    percent = _shown(100 * part / whole, Limit(100 * limit.max))
    measured = f"{guard} {part:,} of {whole:,} {of}, {percent}%"
    return _measured(guard, part / whole, limit, accepted, measured)


def _customers(new: Generation, current: Generation | None, limit: Limit) -> Verdict:
    rows = new.content.rows
    if current is None or not current.content.rows:
        return _nothing_to_compare("customers", f"{rows:,}", limit)
    ratio = rows / current.content.rows
    measured = (
        f"customers {rows:,}, {_shown(ratio, limit)} of the {current.content.rows:,} in generation {current.name}"
    )
    return _measured("customers", ratio, limit, limit.spoken(), measured)


def _total_value(new: Generation, current: Generation | None, limit: Limit) -> Verdict:
    """Per day of the horizon: a forecast of 180 days is worth about twice one of 90, and no less right."""
    total = new.content.total_value
    if current is None or not current.content.total_value:
        return _nothing_to_compare("total_value", f"{total:,.2f}", limit)
    before = current.content.total_value
    ratio = (total / new.horizon_days) / (before / current.horizon_days)
    days, of_days, of = "", "", f"{_shown(ratio, limit)} of the"
    if new.horizon_days != current.horizon_days:
        days, of_days, of = f" in {new.horizon_days} days", f" in {current.horizon_days} days", f"per day {of}"
    measured = f"total_value {total:,.2f}{days}, {of} {before:,.2f}{of_days} in generation {current.name}"
    return _measured("total_value", ratio, limit, limit.spoken(), measured)


def _as_of(new: Generation, current: Generation | None, limit: Limit) -> Verdict:
    if current is None:
        return _nothing_to_compare("as_of", str(new.as_of), limit)
    older = (current.as_of - new.as_of).days
    days = "1 day" if abs(older) == 1 else f"{abs(older)} days"
    distance = f"{days} {'before' if older > 0 else 'after'}" if older else "the same day as"
    measured = f"as_of {new.as_of}, {distance} the {current.as_of} of generation {current.name}"
    return _measured("as_of", older, limit, limit.spoken(1, " days before"), measured)


def _model_version(version: str, accepted: str, answer: Answer | None) -> Verdict:
    limit = "the champion" if accepted == CHAMPION else "a registered version"

    def verdict(outcome: Outcome, text: str) -> Verdict:
        return Verdict(MODEL_VERSION, outcome, None, limit, f"{MODEL_VERSION} {version} {text}")

    if answer is None:
        return verdict(Outcome.NOT_APPLICABLE, "not checked: no --registry was given")
    if answer.problem is not None:
        return verdict(Outcome.TRIPPED, f"is not in the registry {answer.registry}: {answer.problem}")
    if accepted == CHAMPION and answer.champion != version:
        who = f"{answer.champion} is" if answer.champion else "nobody is"
        return verdict(
            Outcome.TRIPPED,
            f"is in the registry {answer.registry}, but {who} champion there: accepted is the champion",
        )
    return verdict(Outcome.PASSED, f"is in the registry {answer.registry}: accepted is {limit}")


def _measured(guard: str, figure: float, limit: Limit, accepted: str, measured: str) -> Verdict:
    outcome = Outcome.PASSED if limit.accepts(figure) else Outcome.TRIPPED
    return Verdict(guard, outcome, figure, accepted, f"{measured}: accepted is {accepted}")


def _nothing_to_compare(guard: str, value: str, limit: Limit) -> Verdict:
    text = f"{guard} {value}: nothing current to compare it with"
    return Verdict(guard, Outcome.NOT_APPLICABLE, None, limit.spoken(), text)


def _shown(figure: float, limit: Limit) -> str:
    """With two decimals, or with as many more as it takes to be seen on its own side of the limits."""
    for digits in range(2, 17):
        text = f"{figure:.{digits}f}"
        if all(_side(float(text), bound) == _side(figure, bound) for bound in (limit.min, limit.max)):
            break
    return text


def _side(figure: float, bound: float) -> tuple[bool, bool]:
    return figure < bound, figure > bound


# --- Overrides ------------------------------------------------------------------------------------------------------


def parse_overrides(texts: Iterable[str]) -> dict[str, str]:
    """Reasons by guard, from arguments such as ``customers=the Spanish shop was closed``.

    Raises:
      UsageError: no guard of this name, no reason, or two for one guard.
    """
    reasons: dict[str, str] = {}
    for text in texts:
        guard, _, reason = text.partition("=")
        reason = " ".join(reason.split())
        if guard not in GUARDS:
            raise rejected("--override", text, f"GUARD=REASON, GUARD one of {', '.join(GUARDS)}")
        if not reason:
            raise rejected("--override", text, f"{guard}=REASON with the reason in words: it is recorded")
        if guard in reasons:
            raise rejected("--override", text, f"one reason for each guard, and {guard} has {reasons[guard]!r} already")
        reasons[guard] = reason
    return reasons


@dataclass(frozen=True)
class Judgement:
    """Verdicts, and what a person says to them.

    Attributes:
      standing: the tripped ones that nobody overrode: none may be left for a switch.
      notes: why each tripped and overridden guard is to be passed over, to be recorded with the switch.
      idle: overrides of guards that did not trip.
    """

    verdicts: tuple[Verdict, ...]
    standing: tuple[Verdict, ...]
    notes: dict[str, str]
    idle: tuple[str, ...]

    def require(self) -> None:
        """Raises: GuardTripped where a guard stands in the way of the switch."""
        if self.standing:
            raise GuardTripped(self.standing)

    def lines(self) -> list[str]:
        """One line a guard, and one for each override that was not needed."""
        said = [
            f"{verdict.outcome.value}{self._overridden(verdict)}: {verdict.text}" for verdict in self.verdicts
        ]  # fmt: skip
        return said + [f"--override {guard} is not needed: the guard did not trip" for guard in self.idle]

    def _overridden(self, verdict: Verdict) -> str:
        return f", overridden ({self.notes[verdict.guard]})" if verdict.guard in self.notes else ""


def settle(verdicts: Sequence[Verdict], overrides: Mapping[str, str]) -> Judgement:
    """What the verdicts come to with these reasons by guard (see ``parse_overrides``)."""
    tripped = [verdict for verdict in verdicts if verdict.outcome is Outcome.TRIPPED]
    names = {verdict.guard for verdict in tripped}
    return Judgement(
        verdicts=tuple(verdicts),
        standing=tuple(verdict for verdict in tripped if verdict.guard not in overrides),
        notes={guard: reason for guard, reason in overrides.items() if guard in names},
        idle=tuple(guard for guard in overrides if guard not in names),
    )
