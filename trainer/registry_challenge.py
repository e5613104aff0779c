"""Is the challenger better than the champion? Both forecast the same customers and days; paired intervals decide."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer import snapshots
from trainer.evaluation_text import (
    HIGHER_IS_BETTER,
    MAIN_METRICS,
    MODEL,
    format_interval,
    format_metric,
    listed,
    spoken,
)
from trainer.snapshots import BY_CUSTOMER, OUT_OF_TIME, Snapshot
from trainer.task import MOST_JUDGED
from transforms.errors import UsageError, one_line, rejected

if TYPE_CHECKING:
    import pyarrow as pa

CHAMPION = "champion"


class Incomparable(UsageError):
    """The two cannot be compared on these customers; only --force promotes one over the other."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} (--force --reason TEXT promotes without a comparison)")
        self.why = why


@dataclass(frozen=True)
class Contender:
    """A registered version: its entry, and the directory of its model."""

    entry: dict[str, Any]
    directory: str

    @property
    def version(self) -> str:
        return str(self.entry["model_version"])

    @property
    def label_end(self) -> datetime.date:
        """The first day that none of its training labels saw."""
        latest = max(datetime.date.fromisoformat(cutoff) for cutoff in self.entry["training_cutoffs"])
        return latest + datetime.timedelta(days=int(self.entry["horizon_days"]))

    def forecast(self, customers: pa.Table, as_of: datetime.date) -> pa.Table:
        import pyarrow as pa

        from trainer import predictor

        return pa.Table.from_batches([predictor.load(self.directory).predict(customers, as_of)])


@dataclass(frozen=True)
class Decision:
    """``figures``: for JSON, None where nothing was compared. ``wins``: whether the challenger may take over."""

    wins: bool
    sentence: str
    figures: dict[str, Any] | None
    notes: tuple[str, ...] = ()


def evaluation_of(challenger: Contender, named: str | None) -> Snapshot:
    """The snapshot to compare on: the one named, or else the one that the challenger was judged on.

    Raises:
      Incomparable: the challenger's own is gone, or not what it was.
      UsageError: the one named is no features directory, or other features or labels than it learned.
    """
    if named is not None:
        snapshot = snapshots.open_snapshot(named)
        for name in ("horizon_days", "history_days", "schema_fingerprint"):
            found, learned = getattr(snapshot, name), challenger.entry[name]
            if found != learned:
                raise rejected(
                    "--evaluation", named, f"{name} {learned}, as {challenger.version} learned; it has {found}"
                )
        return snapshot
    uri = challenger.entry["parameters"]["evaluation"]
    try:
        snapshot = snapshots.open_snapshot(uri)
    except UsageError as error:
        raise Incomparable(
            f"{error}; it is what {challenger.version} was judged on: name another by --evaluation"
        ) from error
    if snapshot.manifest_hash != challenger.entry["input_manifests"].get(uri):
        raise Incomparable(
            f"{uri} is no longer what {challenger.version} was judged on: name it, or another, by --evaluation"
        )
    return snapshot


def compare(challenger: Contender, champion: Contender, evaluation: Snapshot) -> Decision:
    """The paired bootstrap of ``trainer.evaluate``, challenger minus champion.

    Where the challenger's training labels reach past the evaluation's cutoff, only customers of the test split are
    compared on, which a model judged by customer does not learn from.

    Raises:
      Incomparable: the two forecast different horizons, or learned from different histories, or the champion
        cannot forecast these customers, or the challenger learned from what it would be compared on.
    """
    for name in ("horizon_days", "history_days"):
        theirs, ours = champion.entry[name], challenger.entry[name]
        if theirs != ours:
            raise Incomparable(f"{name} of {challenger.version} is {ours}, of the champion {champion.version} {theirs}")
    split = OUT_OF_TIME if evaluation.cutoff >= challenger.label_end else BY_CUSTOMER
    if split == BY_CUSTOMER and challenger.entry["split"] != BY_CUSTOMER:
        raise Incomparable(
            f"{challenger.version} learned from days before {challenger.label_end} and from all customers: compared on those "
            f"from {evaluation.cutoff} on, it would know the answers; name a later snapshot by --evaluation"
        )
    splits = ("test",) if split == BY_CUSTOMER else None
    customers = snapshots.read_customers(evaluation, splits, most_rows=MOST_JUDGED)
    notes = _notes(champion, evaluation)
    judgement = _judge(challenger, champion, evaluation, customers)
    return _decide(judgement, champion, evaluation, split, notes)


def _notes(champion: Contender, evaluation: Snapshot) -> tuple[str, ...]:
    notes = []
    if champion.label_end > evaluation.cutoff:
        notes.append(
            f"the comparison flatters the champion {champion.version}: it learned from days before {champion.label_end}, "
            f"and is compared on those from {evaluation.cutoff} on"
        )
    if champion.entry["schema_fingerprint"] != evaluation.schema_fingerprint:
        notes.append(
            f"the comparison may wrong the champion {champion.version}: it learned from other feature formulas "
            "than the evaluation's"
        )
    return tuple(notes)


def _judge(
    challenger: Contender, champion: Contender, evaluation: Snapshot, customers: pa.Table
) -> dict[str, Any]:  # fmt: skip
    from trainer import evaluate

    try:
        theirs = champion.forecast(customers, evaluation.cutoff)
    except Exception as error:
        # Of formulas it does not know anything may come, and nothing that the challenger is to blame for.
        if champion.entry["schema_fingerprint"] == evaluation.schema_fingerprint:
            raise
        why = f"the champion {champion.version} cannot forecast customers of other feature formulas"
        raise Incomparable(f"{why}: {one_line(str(error), 200)}") from error
    return evaluate.evaluate(
        customers, challenger.forecast(customers, evaluation.cutoff), horizon_days=evaluation.horizon_days,
        forecasts={CHAMPION: theirs["predicted_value"].to_numpy()},
    )  # fmt: skip


def _decide(
    judgement: dict[str, Any], champion: Contender, evaluation: Snapshot, split: str, notes: tuple[str, ...]
) -> Decision:
    models, paired = judgement["models"], judgement["paired"][CHAMPION]
    favours = {metric: favour(metric, paired[metric]) for metric in MAIN_METRICS}
    figures = {
        "champion": champion.version,
        "evaluation": evaluation.uri,
        "evaluation_manifest": evaluation.manifest_hash,
        "evaluation_cutoff": evaluation.cutoff.isoformat(),
        "split": split,
        **{name: judgement[name] for name in ("horizon_days", "customers", "buyers")},
        "metrics": {
            metric: {
                "challenger": models[MODEL][metric],
                "champion": models[CHAMPION][metric],
                "difference_95": paired[metric],
                "favours": {1: "challenger", 0: None, -1: CHAMPION}[favours[metric]],
            }
            for metric in MAIN_METRICS
        },
    }
    better, worse = ([m for m, of in favours.items() if of == sign] for sign in (1, -1))
    return Decision(bool(better) and not worse, _sentence(figures, better, worse), figures, notes)


def favour(metric: str, difference: list[float | None]) -> int:
    """Whom a paired 95% interval of challenger minus champion favours: 1 the challenger, -1 the champion, 0 neither."""
    from trainer.bootstrap import in_favour

    higher_is_better = metric in HIGHER_IS_BETTER
    return int(in_favour(higher_is_better, difference)) - int(in_favour(not higher_is_better, difference))


def _sentence(figures: dict[str, Any], better: list[str], worse: list[str]) -> str:
    claims = [f"{word} in {listed(map(spoken, of))}" for word, of in (("better", better), ("worse", worse)) if of]
    details = [
        f"{spoken(metric)} {format_metric(metric, of['challenger'])} against {format_metric(metric, of['champion'])}, "
        f"difference {format_interval(metric, of['difference_95']) or 'unknown'}"
        for metric, of in figures["metrics"].items()
    ]
    return (
        f"{' and '.join(claims) or 'not clearly better'} than {figures['champion']} on {figures['customers']:,} customers "
        f"of {figures['evaluation']} {figures['split']} ({'; '.join(details)})"
    )
