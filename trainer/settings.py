"""Bounds that every lognormal here has, the network's settings and their command line arguments; imports nothing heavy, so that ``--help`` may show the defaults."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from transforms.cli import whole_number
from transforms.errors import rejected

# The density is unbounded as sigma -> 0: customers who always pay the same price would pull the fit there.
SIGMA_FLOOR = 0.05
# mean / median is exp(sigma^2 / 2): 23 at 2.5, 90 at 3, 268,000 at 5. Money people spend has sigma of about 1.
SIGMA_CAP = 2.5
# No forecast exceeds twice the largest value any training customer ever had: beyond the data a lognormal's mean
# grows as exp(mu + sigma^2 / 2), and one such customer would be a campaign's whole expected revenue.
VALUE_CAP_MULTIPLE = 2.0
MOST_LAYERS, MOST_UNITS, MOST_MEMBERS = 5, 4096, 64


@dataclass(frozen=True)
class Settings:
    """What a search may vary, but for ``members``: one seed moves the RMSE of a small shop by a third and its total by
    several percent, so there are more of them than a search needs.

    ``weight_decay`` is decoupled (Loshchilov and Hutter 2019).
    """

    hidden_units: tuple[int, ...] = (64, 32)
    members: int = 6
    learning_rate: float = 2e-3
    weight_decay: float = 0.0

    @classmethod
    def of(cls, values: dict[str, Any]) -> Settings:
        """Settings from a dict that has them among others, ``hidden_units`` as any sequence."""
        own = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**own, "hidden_units": tuple(own["hidden_units"])})


DEFAULTS = Settings()


def shape(hidden_units: Sequence[int]) -> str:
    """(64, 32) as a person types it: "64 32"."""
    return " ".join(map(str, hidden_units))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--hidden_units, --members, --learning_rate, --weight_decay; ``hidden_units_of`` completes the first."""
    group = parser.add_argument_group(
        "the network", "Tuned by --tune, or by whoever starts trials with these arguments."
    )
    group.add_argument(
        "--hidden_units", nargs="+", type=_layers, metavar="N",
        help="units of each hidden layer, first to last, as 64 32 or as one word 64,32, which a tuning service "
        f"can pass on (default: {shape(DEFAULTS.hidden_units)})",
    )  # fmt: skip
    group.add_argument(
        "--members", type=whole_number(1, MOST_MEMBERS), default=DEFAULTS.members, metavar="N",
        help="networks in the ensemble",
    )  # fmt: skip
    group.add_argument(
        "--learning_rate", type=_number("above 0 and up to 1", lambda x: 0 < x <= 1), default=DEFAULTS.learning_rate,
        metavar="X", help="Adam's step; halved whenever the validation loss stands still",
    )  # fmt: skip
    group.add_argument(
        "--weight_decay", type=_number("from 0 to 10", lambda x: 0 <= x <= 10), default=DEFAULTS.weight_decay,
        metavar="X", help="decoupled: each step takes learning_rate x weight_decay of every weight; 0: none",
    )  # fmt: skip


def hidden_units_of(parsed: Sequence[tuple[int, ...]] | None) -> tuple[int, ...]:
    """What ``--hidden_units`` was parsed to as one tuple; the default where it was not given.

    Raises:
      UsageError: too many layers.
    """
    if parsed is None:
        return DEFAULTS.hidden_units
    layers = tuple(units for word in parsed for units in word)
    if len(layers) > MOST_LAYERS:
        raise rejected("--hidden_units", shape(layers), f"1 to {MOST_LAYERS} layers")
    return layers


def _layers(word: str) -> tuple[int, ...]:
    try:
        return tuple(map(whole_number(1, MOST_UNITS), word.replace(",", " ").split() or [word]))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} for each layer, as 64 32 or 64,32") from error


def _number(accepted: str, is_usable: Callable[[float], bool]) -> Callable[[str], float]:
    """An argument's type: a finite number within bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not is_usable(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not usable: accepted is a number {accepted}")
        return value

    return parse
