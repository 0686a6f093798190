"""What a worker counts and measures, for Prometheus."""

from collections import deque
from collections.abc import Iterable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400)
REMEMBERED = 10_000


class Metrics:
    """The collectors of one worker, in a registry of their own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.events = Counter(
            "activity_stream_events",
            "Events by what became of them: applied, duplicate, expired, clipped, held.",
            ["outcome"],
            registry=own,
        )
        self.refused = Counter(
            "activity_stream_dead_letters", "Messages refused, by reason.", ["reason"], registry=own
        )
        self.members = Counter(
            "activity_stream_members", "Members written, one a member and batch.", registry=own
        )
        self.batches = Counter("activity_stream_batches", "Micro-batches.", registry=own)
        self.conflicts = Counter(
            "activity_stream_conflicts",
            "Members folded again because another worker had written them.",
            registry=own,
        )
        self.retries = Counter(
            "activity_stream_retries", "Failed tries, by what was away.", ["what"], registry=own
        )
        self.offline_rows = Counter(
            "activity_stream_offline_rows", "Rows appended to the offline tables.", registry=own
        )
        self.batch_seconds = Histogram(
            "activity_stream_batch_seconds",
            "From a batch's last event read to its rows written.",
            buckets=SECONDS,
            registry=own,
        )
        self.on_bus_seconds = Histogram(
            "activity_stream_on_bus_seconds",
            "From an event on the bus to its row readable online.",
            buckets=SECONDS,
            registry=own,
        )
        self.event_seconds = Histogram(
            "activity_stream_event_seconds",
            "From an event's own time to its row readable online.",
            buckets=SECONDS,
            registry=own,
        )
        self.quantiles = Gauge(
            "activity_stream_event_seconds_quantile",
            f"The same, of the last {REMEMBERED} events.",
            ["quantile"],
            registry=own,
        )
        self.on_bus: deque[float] = deque(maxlen=REMEMBERED)
        self.since_event: deque[float] = deque(maxlen=REMEMBERED)

    def visible(self, on_bus: list[float], since_event: list[float]) -> None:
        """Note how long events took, in seconds, to where `get_online_features` returns them."""
        for seconds in on_bus:
            self.on_bus_seconds.observe(max(seconds, 0.0))
        for seconds in since_event:
            self.event_seconds.observe(max(seconds, 0.0))
        self.on_bus.extend(on_bus)
        self.since_event.extend(since_event)
        for quantile, value in zip(("0.5", "0.99"), quantiles(self.since_event), strict=True):
            self.quantiles.labels(quantile).set(value)

    def value(self, name: str, **labels: str) -> float:
        """Return one of these numbers: value("events_total", outcome="applied")."""
        return self.registry.get_sample_value(f"activity_stream_{name}", labels) or 0.0


def quantiles(seconds: Iterable[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile; 0 where there is nothing."""
    values = np.fromiter(seconds, float)
    if not values.size:
        return 0.0, 0.0
    median, high = np.quantile(values, [0.5, 0.99])
    return float(median), float(high)
