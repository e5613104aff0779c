"""Fitted parameters as JSON: what is saved, and how it becomes a model again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from transforms import storage
from transforms.errors import UsageError


class FittedModel:
    """A model whose fitted state are the attributes that ``fitted`` names: plain numbers, texts, lists and dicts of them.

    ``standard_errors_`` may hold NaN, for which JSON has no word: it is saved as null.
    """

    name: ClassVar[str]
    fitted: ClassVar[tuple[str, ...]]
    params_: dict[str, float]
    standard_errors_: dict[str, float]

    def check_fitted(self) -> None:
        """Raises: UsageError before ``fit``."""
        if not hasattr(self, "params_"):
            raise UsageError(f"this {self.name} model is not fitted: call fit, or load one")

    def to_json(self) -> dict[str, Any]:
        self.check_fitted()
        errors = {name: value if math.isfinite(value) else None for name, value in self.standard_errors_.items()}
        return {"model": self.name, **{name: getattr(self, name) for name in self.fitted}, "standard_errors_": errors}

    def set_fitted(self, content: Mapping[str, Any]) -> None:
        """Takes over what ``to_json`` gave."""
        for name in self.fitted:
            setattr(self, name, content[name])
        errors = content["standard_errors_"].items()
        self.standard_errors_ = {name: math.nan if value is None else float(value) for name, value in errors}

    def save(self, uri: str) -> None:
        storage.write_bytes(uri, json.dumps(self.to_json(), indent=2, allow_nan=False).encode())


def read(uri: str) -> dict[str, Any]:
    """What ``save`` wrote.

    Raises:
      UsageError: the file does not hold a saved model.
    """
    try:
        content = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is damaged: {error}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise UsageError(f"{uri} does not hold a saved model")
    return content
