"""What ``benchmarks.forecast`` says at its end: tables for people, aims, and figures for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.forecast_contestants import Forecast
from benchmarks.forecast_judge import MEAN, MEAN_ABS_BIAS, METRICS, SHARE_ABOVE_P90, SHARE_WHERE_POSITIVE, Judgement
from benchmarks.forecast_names import OURS
from transforms.errors import UsageError

# Ratio -> [least, most] it may be; None is open. How each ratio is made is told by ``ratios``.
AIM: dict[str, tuple[float | None, float | None]] = {
    "gini_above_every_peer": (0.0, None),
    "spearman": (0.99, None),
    "mae_median": (None, 1.01),
    "rmse_capped": (None, 1.01),
    "decile_mape": (None, 1.0),
    "mean_abs_bias": (None, 1.0),
    SHARE_ABOVE_P90: (0.08, 0.12),
}
_PERCENT = ("decile_mape", "total_bias", MEAN_ABS_BIAS, SHARE_ABOVE_P90, SHARE_WHERE_POSITIVE)
_MONEY = ("rmse", "rmse_capped", "mae_median")
_CELL = 8  # characters of a number at least; a longer heading makes its column wider


def ratios(judgement: Judgement) -> dict[str, float]:
    """What the aims are about, all of the mean over the cutoffs.

    - ``gini_above_every_peer``: the lowest lower end of the intervals of our Gini minus a peer's.
    - ``spearman``, ``mae_median``, ``rmse_capped``: ours against the best peer's.
    - ``decile_mape``, ``mean_abs_bias``: ours against the upper end of the best peer's interval.
    - ``share_above_p90``: ours.
    """
    peers = judgement.peers(MEAN)
    if not peers:
        raise UsageError(
            "--contestants leaves nobody with a forecast at every cutoff: accepted is at least one such peer"
        )

    def of_peers(metric: str) -> dict[str, float]:
        return {peer: judgement.value(MEAN, peer, metric) for peer in peers}

    def ours(metric: str) -> float:
        return judgement.value(MEAN, OURS, metric)

    def upper_end_of_best(metric: str) -> float:
        values = of_peers(metric)
        return judgement.interval(MEAN, min(peers, key=values.__getitem__), metric)[1]

    return {
        "gini_above_every_peer": min(judgement.paired(MEAN, peer, "normalised_gini")[1] for peer in peers),
        "spearman": ours("spearman") / max(of_peers("spearman").values()),
        "mae_median": ours("mae_median") / min(of_peers("mae_median").values()),
        "rmse_capped": ours("rmse_capped") / min(of_peers("rmse_capped").values()),
        "decile_mape": ours("decile_mape") / upper_end_of_best("decile_mape"),
        MEAN_ABS_BIAS: ours(MEAN_ABS_BIAS) / upper_end_of_best(MEAN_ABS_BIAS),
        SHARE_ABOVE_P90: ours(SHARE_ABOVE_P90),
    }


def is_met(aim: str, ratio: float) -> bool:
    """The Gini's interval must lie above 0; the other bounds may be touched."""
    least, most = AIM[aim]
    if aim == "gini_above_every_peer":
        return ratio > 0
    return (least is None or ratio >= least) and (most is None or ratio <= most)


def figures(judgement: Judgement, forecasts: Mapping[str, Mapping[str, Forecast]]) -> dict[str, Any]:
    """{scope: {contestant: {metric: {value, interval, ours_minus: [difference, low, high]}}}}; with notes and CPU seconds."""
    found: dict[str, Any] = {}
    for scope, measured in judgement.exact.items():
        found[scope] = {name: _figures_of(judgement, scope, name) for name in measured}
    for cutoff, of in forecasts.items():
        for name, forecast in of.items():
            found[cutoff][name] |= {"cpu_seconds": round(forecast.cpu_seconds, 2), "notes": list(forecast.notes)}
    for name in found[MEAN]:
        found[MEAN][name]["cpu_seconds"] = _cpu_seconds(forecasts, MEAN, name)
    return found


def _figures_of(judgement: Judgement, scope: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in judgement.exact[scope][name]:
        found[metric] = {
            "value": _number(judgement.value(scope, name, metric)),
            "interval": [_number(end) for end in judgement.interval(scope, name, metric)],
        }
        if name != OURS:
            found[metric]["ours_minus"] = [_number(x) for x in judgement.paired(scope, name, metric)]
    return found


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _cpu_seconds(forecasts: Mapping[str, Mapping[str, Forecast]], scope: str, name: str) -> float:
    """Of a cutoff, or of all of them for the mean."""
    cutoffs = forecasts if scope == MEAN else (scope,)
    return round(sum(forecasts[cutoff][name].cpu_seconds for cutoff in cutoffs), 2)


def print_tables(judgement: Judgement, forecasts: Mapping[str, Mapping[str, Forecast]]) -> None:
    """The mean over the cutoffs first, then each cutoff; ours first, the peers by Gini."""
    scopes = (MEAN, *forecasts) if len(forecasts) > 1 else tuple(forecasts)
    for scope in scopes:
        cutoffs = f"mean over {len(forecasts)} cutoffs" if scope == MEAN else f"cutoff {scope}"
        print(f"\n{cutoffs} (last column: ours minus the peer's Gini, with its paired 95% interval)")
        _print_table(judgement, forecasts, scope)
        left_out = {name for of in forecasts.values() for name in of} - set(judgement.exact[MEAN])
        if scope == MEAN and left_out:
            print(f"not at every cutoff, so only in the tables below: {', '.join(sorted(left_out))}")


def _print_table(judgement: Judgement, forecasts: Mapping[str, Mapping[str, Forecast]], scope: str) -> None:
    columns = (*METRICS, *((MEAN_ABS_BIAS,) if scope == MEAN else ()), SHARE_ABOVE_P90, SHARE_WHERE_POSITIVE)
    peers = sorted(judgement.peers(scope), key=lambda peer: -judgement.value(scope, peer, "normalised_gini"))
    width = max(map(len, (OURS, *peers)))
    heads = (*columns, "cpu_seconds")
    print(f"{'':{width}}" + "".join(f"  {head:>{_CELL}}" for head in heads) + "  gini_ours_minus")
    for name in (OURS, *peers):
        measured = judgement.exact[scope][name]
        cells = [_format(c, judgement.value(scope, name, c)) if c in measured else "" for c in columns]
        cells.append(f"{_cpu_seconds(forecasts, scope, name):.1f}")
        paired = (
            ""
            if name == OURS
            else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*judgement.paired(scope, name, "normalised_gini"))
        )
        aligned = (f"  {cell:>{max(_CELL, len(head))}}" for cell, head in zip(cells, heads, strict=True))
        print(f"{name:{width}}" + "".join(aligned) + f"  {paired}")


def _format(metric: str, value: float) -> str:
    if metric in _PERCENT:
        return f"{value:+.1%}" if metric == "total_bias" else f"{value:.1%}"
    return f"{value:,.2f}" if metric in _MONEY else f"{value:.4f}"


def print_aims(found: Mapping[str, float]) -> None:
    print()
    for name, (least, most) in AIM.items():
        bounds = [f"at least {least:g}" if least else "above 0"] if least is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        print(
            f"{name}: {found[name]:.4f} (aim: {', '.join(bounds)}): {'met' if is_met(name, found[name]) else 'missed'}"
        )
