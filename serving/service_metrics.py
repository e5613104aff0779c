"""The lookup service's figures, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.reader import Reader

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: a remembered row takes .1 ms, Datastore some 10, and the limit is seconds.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class ServiceMetrics:
    """One registry an application, so that two of them in one process do not meet."""

    def __init__(self, reader: Reader) -> None:
        self._registry = CollectorRegistry()
        labels = ("route", "method")
        self._answers = Counter("clv_http_requests", "answers", (*labels, "status"), registry=self._registry)
        self._problems = Counter("clv_http_problems", "answers that are problems", ["code"], registry=self._registry)
        self._seconds = Histogram(
            "clv_http_request_seconds",
            "until the answer was handed over",
            labels,
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_ReaderFigures(reader))

    def problem(self, code: str) -> None:
        """Counts an answer that was a problem, by its code: of one status there are several."""
        self._problems.labels(code).inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request; ``status`` 0 is for who went away before there was an answer."""
        if method not in _METHODS:  # a label for each of what a client may invent would never be forgotten
            method = "other"
        self._answers.labels(route, method, status).inc()
        self._seconds.labels(route, method).observe(seconds)

    def page(self) -> bytes:
        return bytes(generate_latest(self._registry))


_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})


class _ReaderFigures(Collector):
    """Asked for when the page is, so that they cost nothing otherwise."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def collect(self) -> Iterable[Metric]:
        reader = self._reader
        customers = CounterMetricFamily(
            "clv_customers", "customers looked up, by where their row was", labels=["source"]
        )
        customers.add_metric(["memory"], reader.figures.remembered)
        customers.add_metric(["store"], reader.figures.asked)
        yield customers
        yield CounterMetricFamily("clv_store_reads", "calls to the store for rows", value=reader.threads.calls)
        yield GaugeMetricFamily(
            "clv_pointer_age_seconds", "since it was asked which generation is served", value=reader.pointer.age_seconds
        )
        known: Any = reader.pointer.known
        if known is not None:
            served = GaugeMetricFamily(
                "clv_generation_rows",
                "customers of the generation served",
                labels=["generation", "as_of", "model_version"],
            )
            served.add_metric([known.name, str(known.as_of), known.model_version], known.content.rows)
            yield served
            if known.expires_at:
                yield GaugeMetricFamily(
                    "clv_generation_expires_timestamp_seconds",
                    "when it ceases to be served",
                    value=known.expires_at.timestamp(),
                )
