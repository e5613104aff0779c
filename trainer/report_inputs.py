"""What the sections of a report are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer import report_charts
from trainer.baselines import float_column
from trainer.evaluation_text import MODEL, best_baseline, spoken
from trainer.metrics import Array, GainCurve

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.report_distributions import Compared

# Baselines that are models themselves, see ``trainer.fitted_baselines``.
FITTED = {"pareto": "Pareto/NBD", "mbgnbd": "MBG/NBD", "tweedie": "Tweedie trees"}


def called(name: str) -> str:
    """A forecast's name as people say it."""
    return FITTED.get(name, spoken(name))


@dataclass(frozen=True)
class Inputs:
    """What a report is made of: manifests as read, tables with the columns the sections need.

    ``fitted``: the purchase and the spend model among the members as saved, see ``trainer.fitted_json``.
    """

    model: dict[str, Any]
    evaluation: dict[str, Any]
    judged: pa.Table
    features: list[dict[str, Any]]
    predictions: dict[str, Any] | None
    predicted: pa.Table
    compared: Compared | None
    fitted: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        shown = [n for n in self.evaluation["models"] if n == MODEL or f"baseline_{n}" in self.judged.column_names]
        object.__setattr__(self, "names", shown)

    def judged_columns(self, names: Sequence[str]) -> dict[str, Array] | None:
        """None where one of them is not at hand."""
        known = set(names) <= set(self.judged.column_names)
        return {name: self.judged_column(name) for name in names} if known else None

    def judged_column(self, name: str) -> Array:
        return float_column(self.judged, name)

    def curve(self, name: str) -> GainCurve:
        column = "predicted_value" if name == MODEL else f"baseline_{name}"
        return GainCurve.of(self.judged_column("future_value"), self.judged_column(column))

    def best(self) -> str | None:
        """The strongest baseline whose forecasts are at hand."""
        models = {name: of for name, of in self.evaluation["models"].items() if name in self.names}
        return best_baseline({"models": models}) if len(models) > 1 else None

    def rivals(self) -> list[str]:
        """The strongest baseline and the fitted ones: whom a model has to beat."""
        best = self.best()
        return [name for name in self.names if name != MODEL and (name == best or name in FITTED)]

    def paint(self) -> dict[str, str]:
        best = self.best()
        others = report_charts.colours([n for n in self.names if n != MODEL], best) if best else {}
        return {MODEL: report_charts.MODEL_COLOUR, **others}
