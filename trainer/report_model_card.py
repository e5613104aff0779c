"""The report's model card: what the model forecasts, what it was made from, and where it ends.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import report_mix, report_page
from trainer.report_page import Html, html
from trainer.snapshots import OUT_OF_TIME

TITLE = "Model card"
_LIMITS = (
    "It forecasts customers with an order of positive value before the cutoff; people who have never bought are not in it.",
    "It knows orders and nothing else: no prices, campaigns, stock or competitors, and nothing that has not happened before.",
    "A range is one customer's. Ranges do not add up: the total of many customers is surer than the sum of their p90.",
    "It says who will spend, not who would spend more for being addressed: that takes an experiment.",
)
_BY_CUSTOMER = "The history was too short to hold out a period: how it does on days that nobody has seen yet is not known, and likely worse."
_RATES = {"r": "shape of the purchase rates over customers", "alpha": "their scale; r / alpha is the mean rate a week"}
_PARAMETERS = {
    "pareto": {
        **_RATES, "s": "shape of the rates of leaving over customers", "beta": "their scale; s / beta is the mean rate a week",
    },
    "mbgnbd": {**_RATES, "a": "a / (a + b) is the mean probability to leave after a purchase", "b": "see a"},
    "bgnbd": {**_RATES, "a": "a / (a + b) is the mean probability to leave after a repeat purchase", "b": "see a"},
    "gamma_gamma": {
        "p": "shape of a customer's order values", "q": "shape of their level over customers", "v": "its scale, in money",
    },
}  # fmt: skip
_TITLES = {
    "pareto": "Pareto/NBD",
    "mbgnbd": "MBG/NBD",
    "bgnbd": "BG/NBD",
    "gamma_gamma": "Gamma-Gamma (value of an order day)",
}


def section(
    model: Mapping[str, Any], evaluation: Mapping[str, Any], features: Sequence[Mapping[str, Any]],
    fitted: Sequence[Mapping[str, Any]],
) -> Html:  # fmt: skip
    """Args:
    model, features: manifests.
    evaluation: as ``evaluation.json`` holds it.
    fitted: saved purchase and spend models, see ``trainer.fitted_json``; none where no member has them.
    """
    facts = {
        "Model": f"{model['model_version']}, {evaluation['customers']:,} customers judged",
        "Forecast": _label(int(model["horizon_days"])),
        "Data": _data(model, features),
        "Learned from": _learned(model),
        "Judged": _judged(model, evaluation),
        **_members(evaluation.get("training") or {}),
    }
    limits = [*_LIMITS, *([_BY_CUSTOMER] if _split(model, evaluation) == "by customer" else [])]
    return report_page.section(
        "card", TITLE,
        report_page.paragraph("What to know before relying on it."),
        report_page.facts(facts),
        *_fitted(fitted),
        Html("<h3>Known limits</h3>"), report_page.bullets(limits),
        *_warnings(evaluation["warnings"]),
    )  # fmt: skip


def _label(horizon_days: int) -> str:
    return (
        f"value: the sum of a customer's order lines, returns subtracted, of the {horizon_days} days from the cutoff (00:00 UTC) "
        "on, and 0 where that is negative; orders: the days among them on which that sum is positive; probability: of at least "
        "one such day. Features see what was before the cutoff and nothing after."
    )


def _data(model: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> str:
    history = model.get("history_days")
    reach = f"the {history} days before each cutoff" if history else "all days before each cutoff"
    activities = [activity for manifest in features if (activity := manifest.get("activity"))]
    days = [day for activity in activities for day in (min(activity), max(activity))]
    seen = f", orders from {min(days)} to {max(days)}" if days else ""
    return f"customers with at least one order of positive value in {reach}{seen}"


def _learned(model: Mapping[str, Any]) -> str:
    cutoffs = sorted(model.get("training_cutoffs") or [])
    if not cutoffs:
        return "not known"
    end = datetime.date.fromisoformat(cutoffs[-1]) + datetime.timedelta(days=int(model["horizon_days"]) - 1)
    rows = f"{model['training_rows']:,} rows of " if "training_rows" in model else ""
    count = "1 snapshot" if len(cutoffs) == 1 else f"{len(cutoffs)} snapshots"
    return f"{rows}{count}, cutoffs {', '.join(cutoffs)}; the labels lie between {cutoffs[0]} and {end}"


def _split(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    return str(evaluation.get("split") or model.get("split") or "not known")


def _judged(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    split = _split(model, evaluation)
    if split != OUT_OF_TIME or "evaluation_cutoff" not in model:
        return split
    start = datetime.date.fromisoformat(model["evaluation_cutoff"])
    end = start + datetime.timedelta(days=int(model["horizon_days"]) - 1)
    return f"{split}: on {start} to {end}, no day of which is in a label it learned from; read once, at the end"


def _members(training: Mapping[str, Any]) -> dict[str, str]:
    made = training.get("choice")
    if not made:
        return {}
    facts = {"Members": report_mix.members(made["weights"]), "Why these": report_mix.sentence(made["why"])}
    if training.get("calibration"):
        facts["Calibration"] = "; ".join(training["calibration"])
    if purchases := training.get("purchase_model"):
        facts["Purchase model"] = (
            f"{_TITLES[purchases['model']]}, fitted on what customers did before {purchases['as_of']}"
        )
    return facts


def _fitted(models: Sequence[Mapping[str, Any]]) -> list[Html]:
    if not models:
        return []
    parts = [Html("<h3>Parameters of the purchase model</h3>")]
    rows: list[list[object]] = []
    for model in models:
        meanings = _PARAMETERS[model["model"]]
        for name, value in model["params_"].items():
            error = model["standard_errors_"][name]
            title = Html(f'{html(_TITLES[model["model"]])}: {name}<span class="explain">{html(meanings[name])}</span>')
            rows.append([title, f"{value:.4g}", "not determined" if error is None else f"{error:.2g}"])
    parts.append(report_page.table(["", "Estimate", "Standard error"], rows))
    notes = [f"{_TITLES[model['model']]}: {note}" for model in models for note in model["notes_"]]
    return [*parts, report_page.bullets(notes)] if notes else parts


def _warnings(warnings: Sequence[str]) -> list[Html]:
    if not warnings:
        return [report_page.paragraph("No warnings.")]
    return [Html("<h3>Warnings</h3>"), report_page.bullets(warnings)]
