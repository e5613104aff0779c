"""The report's end: where every order line went, and what made these numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer import report_charts, report_page
from trainer.evaluation_text import spoken
from trainer.report_page import Html, html

if TYPE_CHECKING:
    from trainer.report_inputs import Inputs


@dataclass(frozen=True)
class _Flow:
    """One snapshot's lines."""

    name: str
    lines: Mapping[str, Any]
    customers: int

    def reasons(self, kind: str) -> Mapping[str, int]:
        return self.lines.get(kind) or {}

    def total(self, kind: str) -> int:
        return sum(self.reasons(kind).values())


def _flows(inputs: Inputs) -> list[_Flow]:
    flows = [
        _Flow(f"features {manifest['arguments'].get('cutoff', '?')}", manifest["lines"], manifest["rows"])
        for manifest in inputs.features
    ]
    if inputs.predictions is not None and "lines" in inputs.predictions:
        name = f"predictions {inputs.predictions.get('as_of', '?')}"
        flows.append(_Flow(name, inputs.predictions["lines"], inputs.predictions["rows"]))
    return flows


def _flow_table(flows: list[_Flow]) -> Html:
    """A row a snapshot, of which there may be many; each reason a column beside the total of its kind."""
    head: list[object] = ["", "Lines read", "Lines used"]
    rows: list[list[object]] = [
        [flow.name, f"{flow.lines['read']:,}", f"{flow.lines['used']:,}"] for flow in flows
    ]  # fmt: skip
    for kind, title in (("excluded", "Excluded"), ("dead_letters", "Dead letters")):
        reasons = list(dict.fromkeys(reason for flow in flows for reason in flow.reasons(kind)))
        head += [title, *(Html(f'<span class="explain">{html(spoken(reason))}</span>') for reason in reasons)]
        for row, flow in zip(rows, flows, strict=True):
            row += [f"{flow.total(kind):,}", *(f"{flow.reasons(kind).get(reason, 0):,}" for reason in reasons)]
    for row, flow in zip(rows, flows, strict=True):
        row.append(f"{flow.customers:,}")
    return report_page.table([*head, "Customers"], rows)


def data_flow(inputs: Inputs) -> Html:
    flows = _flows(inputs)
    title = "Where did the data go?"
    if not flows:
        return report_page.section("data", title, report_page.paragraph("No features directory was given."))
    parts = {
        "used": [flow.lines["used"] for flow in flows],
        "excluded": [flow.total("excluded") for flow in flows],
        "dead letters": [flow.total("dead_letters") for flow in flows],
    }
    aid = (
        "Every order line read is used, excluded for a reason (fine, but not part of this snapshot) or a dead letter "
        "(unusable); a wide orange part means broken input."
    )
    chart = report_page.figure(report_charts.data_flow([flow.name for flow in flows], parts), "flow", aid)
    return report_page.section("data", title, chart, _flow_table(flows))


def _flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names; long lists (losses by epoch and the like) are not provenance."""
    flat: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value)) if len(value) <= 10 else f"{len(value)} values"
        elif value is not None:
            flat[prefix + name] = f"{value:.8g}" if isinstance(value, float) else str(value)
    return flat


# What other sections show, and a manifest repeats, is not provenance.
_SHOWN = (
    "lines", "activity", "choice", "calibration", "models", "intervals", "paired", "beats", "verdict", "warnings",
    "pit_histogram", "segments", "weeks", "months",
)  # fmt: skip


def _facts(title: str, content: Mapping[str, Any], unfolded: bool = False) -> Html:
    kept = {name: value for name, value in content.items() if name not in _SHOWN}
    return report_page.details(title, _flattened(kept), unfolded)


def provenance(inputs: Inputs) -> Html:
    # What it says of the training is the model's manifest once more.
    evaluation = {name: value for name, value in inputs.evaluation.items() if name != "training"}
    parts = [
        _facts(f"Model {inputs.model['model_version']}", inputs.model, unfolded=True),
        _facts("Evaluation", evaluation, unfolded=True),
    ]
    manifests = [*inputs.features, *([inputs.predictions] if inputs.predictions else [])]
    parts += [_facts(name, manifest) for name, manifest in zip(_manifest_names(inputs), manifests, strict=True)]
    return report_page.section("provenance", "Where do these numbers come from?", *parts)


def _manifest_names(inputs: Inputs) -> list[str]:
    names = [f"Features, cutoff {manifest['arguments'].get('cutoff', '?')}" for manifest in inputs.features]
    return names + ([f"Predictions as of {inputs.predictions.get('as_of', '?')}"] if inputs.predictions else [])
