"""What a model's members say, mixed: the content of ``blend.json``.

Means, probabilities and expected counts are weighted averages of the members'. So are the quantiles (Vincent averages:
Ratcliff 1979; Lichtendahl, Grushka-Cockayne and Winkler 2013, "Is it better to average probabilities or quantiles?"):
an average of distributions would be wider than the members, which are rather too wide already.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.calibration import Calibration
from trainer.predictor import MEMBERS
from transforms import storage
from transforms.errors import UsageError, rejected

Array = NDArray[np.float64]

FILE = "blend.json"
_QUANTILES = ("value_p10", "value_p50", "value_p90")


@dataclass(frozen=True)
class Blend:
    """``weights``: of each member, positive, 1 in sum."""

    weights: Mapping[str, float]
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def equal(cls, members: tuple[str, ...]) -> Blend:
        return cls({name: 1 / len(members) for name in members})

    def forecasts(self, said: Mapping[str, Mapping[str, Array]], as_of: datetime.date) -> dict[str, Array]:
        """The mix of [n] forecasts of every member, calibrated."""
        return self.calibration.apply(mix(said, self.weights), as_of)

    def to_json(self) -> dict[str, Any]:
        return {"weights": dict(self.weights), "calibration": self.calibration.to_json()}

    def write(self, model_dir: str) -> None:
        storage.write_bytes(storage.join(model_dir, FILE), json.dumps(self.to_json(), indent=2).encode())


def mix(said: Mapping[str, Mapping[str, Array]], weights: Mapping[str, float]) -> dict[str, Array]:
    """The weighted average of every column, [n]; quantiles stay in order whatever rounding does."""
    columns = next(iter(said.values()))
    mixed = {
        column: sum((weight * said[name][column] for name, weight in weights.items()), np.zeros(1))
        for column in columns
    }
    for low, high in itertools.pairwise(_QUANTILES):
        mixed[high] = np.maximum(mixed[high], mixed[low])
    mixed["purchase_probability"] = np.minimum(mixed["purchase_probability"], 1.0)
    return mixed


def read(model_dir: str) -> Blend:
    """The blend of a model directory.

    Raises:
      UsageError: there is none, or it names a member this code does not know.
    """
    path = storage.join(model_dir, FILE)
    if not storage.exists(path):
        raise UsageError(
            f"{model_dir} holds no {FILE}: it was trained by an earlier version of this code, train it anew"
        )
    content = json.loads(storage.read_bytes(path))
    for name in content["weights"]:
        if name not in MEMBERS:
            raise rejected(f"the member of {path}", name, ", ".join(MEMBERS))
    return Blend(content["weights"], Calibration.from_json(content["calibration"]))
