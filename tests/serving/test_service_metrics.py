"""The service's figures: what a dashboard may believe."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.reader import Reader
from serving.service_metrics import ServiceMetrics
from serving.store import Writing, open_store
from tests.serving.service import Client, publish, running
from tests.serving.store_contract import fill, prediction

Figure = Callable[..., float | None]


def figures(page: str) -> Figure:
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((name, frozenset(labels.items())))


def asked(client: Client) -> Figure:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return figures(answer.body.decode())


def test_what_was_done_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = f"sqlite://{tmp_path_factory.mktemp('metrics')}/serving.db"
    publish(uri, "g1", [prediction(f"c{number}") for number in range(10)])
    with running(uri) as client:
        before = asked(client)
        assert before("clv_store_reads_total") == before("clv_customers_total", source="store") == 0
        assert before("clv_pointer_age_seconds") == float("inf")
        assert before("clv_generation_rows", generation="g1", as_of="2011-12-10", model_version="m1") is None
        client.look_up([f"c{number}" for number in range(8)])
        client.look_up([*(f"c{number}" for number in range(10)), "nobody"])
        client.value("c1")
        after = asked(client)
    assert after("clv_customers_total", source="store") == 8 + 3
    assert after("clv_customers_total", source="memory") == 8 + 1
    assert after("clv_store_reads_total") == 2
    assert after("clv_generation_rows", generation="g1", as_of="2011-12-10", model_version="m1") == 10
    age = after("clv_pointer_age_seconds")
    assert age is not None and 0 <= age < 5
    lookup = {"route": "/v1/customers:lookup", "method": "POST"}
    assert after("clv_http_requests_total", **lookup, status="200") == 2
    assert after("clv_http_request_seconds_count", **lookup) == 2
    total = after("clv_http_request_seconds_sum", **lookup)
    assert total is not None and 0 < total < 10
    assert after("clv_http_requests_total", route="/metrics", method="GET", status="200") == 1, "the one before"


def test_when_it_ceases_to_be_served_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Only some stores' generations expire; here the reader is told one that does."""
    uri = f"sqlite://{tmp_path_factory.mktemp('metrics')}/serving.db"
    with open_store(uri, create=True, writing=Writing(ttl=timedelta(days=1))) as store:
        fill(store, "g1", [prediction("c1")])
        store.switch("g1", None)
        found = store.current()
    assert found is not None
    reader = Reader(lambda: open_store(uri), 1, 5.0, 10)
    from dataclasses import replace

    ends = datetime(2026, 1, 2, tzinfo=UTC)
    reader.pointer._known = replace(found, expires_at=ends)
    assert (
        figures(ServiceMetrics(reader).page().decode())("clv_generation_expires_timestamp_seconds") == ends.timestamp()
    )


def test_what_a_client_invents_gets_no_label_of_its_own() -> None:
    metrics = ServiceMetrics(Reader(lambda: None, 1, 5.0, 10))  # type: ignore[arg-type, return-value]
    for method in ("GET", "BREW", "\n", 'x"'):
        metrics.answered("/", method, 200, 0.1)
    page = metrics.page().decode()
    figure = figures(page)
    assert figure("clv_http_requests_total", route="/", method="GET", status="200") == 1
    assert figure("clv_http_requests_total", route="/", method="other", status="200") == 3
    assert "BREW" not in page
