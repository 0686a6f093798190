"""The figures of a worker by hand: buckets, sums and quantiles of a few seconds."""

import pytest
from prometheus_client import CollectorRegistry

from serving.stream.metrics import REMEMBERED, SECONDS, Metrics, Spans


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def spans(registry: CollectorRegistry) -> Spans:
    return Spans("waited", "How long.", registry)


def buckets(registry: CollectorRegistry) -> dict[str, float | None]:
    bounds = [*map(str, SECONDS), "+Inf"]
    return {bound: registry.get_sample_value("waited_bucket", {"le": bound}) for bound in bounds}


def test_nothing_observed(spans: Spans, registry: CollectorRegistry) -> None:
    assert set(buckets(registry).values()) == {0.0}
    assert registry.get_sample_value("waited_sum") == 0.0
    assert spans.quantiles() == (0.0, 0.0)
    spans.observe([])
    assert registry.get_sample_value("waited_count") == 0.0


def test_a_bucket_counts_what_is_no_longer_than_its_bound(
    spans: Spans, registry: CollectorRegistry
) -> None:
    spans.observe([0.002, 0.01, 0.0101])
    spans.observe(seconds for seconds in (0.2, 5.0, 100_000.0))
    assert buckets(registry) == {
        "0.01": 2.0,
        "0.025": 3.0,
        "0.05": 3.0,
        "0.1": 3.0,
        "0.15": 3.0,
        "0.25": 4.0,
        "0.5": 4.0,
        "1": 4.0,
        "2.5": 4.0,
        "5": 5.0,
        "10": 5.0,
        "60": 5.0,
        "600": 5.0,
        "3600": 5.0,
        "86400": 5.0,
        "+Inf": 6.0,
    }
    assert registry.get_sample_value("waited_count") == 6.0
    assert registry.get_sample_value("waited_sum") == pytest.approx(100_005.2221)


def test_a_clock_that_runs_behind_counts_as_zero(spans: Spans, registry: CollectorRegistry) -> None:
    spans.observe([-3.0, 1.0])
    assert buckets(registry)["0.01"] == 1.0
    assert registry.get_sample_value("waited_sum") == 1.0
    assert list(spans.last) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("seconds", "median", "high"),
    [
        ([4.0], 4.0, 4.0),
        ([3.0, 1.0], 2.0, 2.98),
        ([5.0, 1.0, 3.0], 3.0, 4.96),
        (range(101), 50.0, 99.0),
    ],
)
def test_the_median_and_the_99th_percentile(
    spans: Spans, seconds: list[float], median: float, high: float
) -> None:
    spans.observe(seconds)
    assert spans.quantiles() == pytest.approx((median, high))


def test_quantiles_are_of_the_last_ones_and_buckets_of_all(
    spans: Spans, registry: CollectorRegistry
) -> None:
    spans.observe([1.0] * 10)
    spans.observe([2.0] * REMEMBERED)
    assert spans.quantiles() == (2.0, 2.0)
    assert buckets(registry)["1"] == 10.0
    assert registry.get_sample_value("waited_count") == 10.0 + REMEMBERED


def test_a_workers_own_figures() -> None:
    metrics, other = Metrics(), Metrics()
    assert metrics.value("events_total", outcome="applied") == 0.0
    metrics.events.labels("applied").inc(3)
    metrics.event_seconds.observe([0.3, 0.1, 0.2])
    assert metrics.value("events_total", outcome="applied") == 3.0
    assert metrics.value("event_seconds_quantile", quantile="0.5") == pytest.approx(0.2)
    assert metrics.value("event_seconds_quantile", quantile="0.99") == pytest.approx(0.298)
    assert metrics.value("event_seconds_count") == 3.0
    assert metrics.value("on_bus_seconds_count") == 0.0
    assert other.value("event_seconds_count") == 0.0
