"""Fixtures shared by the GoogleSQL tests."""

from collections.abc import Iterator

import pytest

from .service import GoogleSql, unavailable_reason


@pytest.fixture(scope="session")
def googlesql() -> Iterator[GoogleSql]:
    """One GoogleSQL server for the whole session; skips where its binary is not installed."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    with GoogleSql() as engine:
        yield engine
