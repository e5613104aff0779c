"""What the lookup service takes and answers, as its OpenAPI page shows it; the columns are the schema's own."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from transforms.schema import CUSTOMER_ID_MAX_BYTES, PREDICTIONS, Type

MOST_IDS = 1_000  # one call to Datastore reads no more
_TYPES: dict[Type, type] = {Type.STRING: str, Type.INT: int, Type.FLOAT: float, Type.DATE: date}
_GENERATION = Field(description="the published set of predictions it belongs to", examples=["2011-12-10-0a1b2c3d4e5f"])

_columns: dict[str, Any] = {
    column.name: (
        _TYPES[column.type],
        Field(description=column.formula + (f" ({column.unit})" if column.unit else "")),
    )
    for column in PREDICTIONS
}
Prediction = create_model("Prediction", **_columns, generation=(str, _GENERATION))
Prediction.__doc__ = "One customer's prediction. Money is in the orders' currency, times are UTC."


class LookupRequest(BaseModel):
    """The customers to look up; one that occurs twice counts once."""

    model_config = ConfigDict(extra="forbid")

    customer_ids: Annotated[list[str], Field(min_length=1, max_length=MOST_IDS, examples=[["12347", "12348"]])]


class LookupAnswer(BaseModel):
    """All of one generation: who was found, in the order asked, and who has no prediction."""

    generation: str = _GENERATION
    found: list[Prediction]  # type: ignore[valid-type]
    missing: list[str]


class ServedGeneration(BaseModel):
    """The predictions being served.

    ``rows`` counts customers; ``published_at`` is when it became current, ``expires_at`` when it ceases to be served.
    """

    generation: str = _GENERATION
    as_of: date
    horizon_days: int
    model_version: str
    rows: int
    published_at: datetime | None
    expires_at: datetime | None


class ProblemDetails(BaseModel):
    """Why there is no answer (RFC 9457). ``code`` is for programs, ``detail`` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str


ACCEPTED_ID = f"accepted are 1 to {CUSTOMER_ID_MAX_BYTES:,} bytes of UTF-8"


def is_customer_id(text: str) -> bool:
    """Whether a customer could be called so."""
    try:
        return 0 < len(text.encode()) <= CUSTOMER_ID_MAX_BYTES
    except UnicodeEncodeError:
        return False
