"""The report's account of a model's members: which were mixed and why, and what was corrected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer import report_page
from trainer.choice import METRICS, SPOKEN
from trainer.evaluation_text import format_interval, format_metric, listed, spoken
from trainer.report_page import Html, html

TITLE = "What is it made of, and why?"
DESCRIBED = {
    "saved_model": "a neural network that says for each customer how likely a purchase is and how the money is distributed",
    "btyd": "a buy-till-you-die model: customers buy at a rate of their own until they silently leave",
    "boosting": "boosted decision trees",
}


def section(training: Mapping[str, Any]) -> Html:
    """``training``: of an evaluation."""
    made = training.get("choice")
    if not made:
        text = "Not known: the model was trained by an earlier version of this code."
        return report_page.section("mix", TITLE, report_page.paragraph(text))
    return report_page.section(
        "mix", TITLE,
        report_page.paragraph(f"{sentence(made['why'])}."),
        *_compared(made.get("compared") or {}, made["weights"]),
        *calibration(training),
    )  # fmt: skip


def sentence(text: str) -> str:
    """With a capital, unless it begins with the name of a column like p90."""
    return text[:1].upper() + text[1:] if text.split(" ")[0].isalpha() else text


def named(mix: str) -> str:
    """Of a mix like ``saved_model+btyd``."""
    return listed(SPOKEN[member] for member in mix.split("+"))


def members(weights: Mapping[str, float]) -> str:
    """Each member's part in a forecast, in words."""
    return "; ".join(f"{weight:.0%} {SPOKEN[name]} ({DESCRIBED[name]})" for name, weight in weights.items())


def _compared(compared: Mapping[str, Any], weights: Mapping[str, float]) -> list[Html]:
    if not compared:
        return []
    mixes, instead = compared["mixes"], compared["instead"]
    full = next(name for name in mixes if name not in instead)
    used = "+".join(name for name in full.split("+") if name in weights)
    rows: list[list[object]] = []
    for name, of in mixes.items():
        title = Html(f"<strong>{html(named(name))}</strong> (used)") if name == used else named(name)
        rows.append([title, *(_cell(metric, of[metric], instead.get(name)) for metric in METRICS)])
    aid = (
        f"Each mix forecast {compared['customers']:,} customers of {compared['basis']} ({compared['window']}) that it had not "
        f"learned from; the one in bold is used. All members together are kept unless fewer are clearly better in two "
        "measures and worse in none."
    )
    note = (
        "Under a number: 95% interval of its difference to all members together (✓ clearly better, ✗ clearly worse, ≈ no clear "
        "difference). Levels are made equal first. Higher is better for Gini and Spearman, lower for the RMSE."
    )
    return [
        report_page.paragraph(aid),
        report_page.table(["", *map(_title, METRICS)], rows),
        report_page.paragraph(note, "small"),
    ]


def _title(metric: str) -> str:
    return {"rmse_capped": "RMSE, capped"}.get(metric, sentence(spoken(metric)))


def _cell(metric: str, value: float | None, against: Mapping[str, Any] | None) -> Html:
    text = html(format_metric(metric, value))
    if against is None:
        return Html(f'{text}<span class="mark"></span>')
    kind = "better" if metric in against["better"] else "worse" if metric in against["worse"] else "equal"
    interval = format_interval(metric, against["intervals"][metric])
    return Html(f'{text}{report_page.mark(kind)}<span class="interval">{html(interval)}</span>')


def calibration(training: Mapping[str, Any]) -> list[Html]:
    """What was corrected or left alone, and why; nothing where nothing is said."""
    reasons = training.get("calibration") or []
    if not reasons:
        return [report_page.paragraph("Nothing was corrected: there was no window to correct by.")]
    aid = "What forecasts of earlier windows said about corrections:"
    return [report_page.paragraph(aid), report_page.bullets([f"{sentence(reason)}." for reason in reasons])]
