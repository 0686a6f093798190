"""A worker's Prometheus metrics."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400)
REMEMBERED = 10_000


class Spans(Collector):
    """A histogram of seconds that takes many values per call and keeps the last ones exactly.

    prometheus_client's own costs a tenth of a worker's time, with one Python call per event.
    """

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._family = (name, documentation)
        self._counts = np.zeros(len(SECONDS) + 1, np.int64)
        self._sum = 0.0
        self.last: deque[float] = deque(maxlen=REMEMBERED)
        registry.register(self)

    def observe(self, seconds: Iterable[float]) -> None:
        """Count these values; a negative one, from a clock that runs behind, counts as zero."""
        values = np.maximum(np.fromiter(seconds, float), 0.0)
        buckets = np.searchsorted(SECONDS, values, side="left")
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._sum += float(values.sum())
        self.last.extend(values.tolist())

    def quantiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile of the last values; 0 where there is none."""
        if not self.last:
            return 0.0, 0.0
        median, high = np.quantile(np.fromiter(self.last, float), [0.5, 0.99])
        return float(median), float(high)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as Prometheus reads it."""
        bounds = [*map(str, SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, np.cumsum(self._counts)), strict=True))
        yield HistogramMetricFamily(*self._family, buckets=buckets, sum_value=self._sum)


class Metrics:
    """The collectors of one worker, in a separate registry."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.events = Counter(
            "activity_stream_events",
            "Events by outcome: applied, duplicate, expired, clipped, held, forgotten.",
            ["outcome"],
            registry=own,
        )
        self.refused = Counter(
            "activity_stream_dead_letters", "Messages refused, by reason.", ["reason"], registry=own
        )
        self.members = Counter(
            "activity_stream_members",
            "Members written, counted once per member and batch.",
            registry=own,
        )
        self.batches = Counter("activity_stream_batches", "Micro-batches.", registry=own)
        self.conflicts = Counter(
            "activity_stream_conflicts",
            "Members folded again because another worker wrote them first.",
            registry=own,
        )
        self.recovered = Counter(
            "activity_stream_recovered_members",
            "Members whose state the store had lost, made again from snapshot and streamed rows.",
            registry=own,
        )
        self.retries = Counter(
            "activity_stream_retries",
            "Failed tries, by what was unavailable: bus, store.",
            ["what"],
            registry=own,
        )
        self.offline_rows = Counter(
            "activity_stream_offline_rows", "Rows appended to the offline tables.", registry=own
        )
        self.batch_seconds = Spans(
            "activity_stream_batch_seconds", "From reading a batch to writing its rows.", own
        )
        self.on_bus_seconds = Spans(
            "activity_stream_on_bus_seconds",
            "From an event's arrival on the bus to its row online.",
            own,
        )
        self.event_seconds = Spans(
            "activity_stream_event_seconds", "From an event's timestamp to its row online.", own
        )
        self._quantiles = Gauge(
            "activity_stream_event_seconds_quantile",
            f"Quantiles of activity_stream_event_seconds over the last {REMEMBERED} events.",
            ["quantile"],
            registry=own,
        )
        for index, quantile in enumerate(("0.5", "0.99")):
            self._quantiles.labels(quantile).set_function(partial(self._quantile, index))

    def _quantile(self, index: int) -> float:
        return self.event_seconds.quantiles()[index]

    def value(self, name: str, **labels: str) -> float:
        """Return one metric's value, as in value("events_total", outcome="applied")."""
        return self.registry.get_sample_value(f"activity_stream_{name}", labels) or 0.0
