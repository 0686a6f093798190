"""What a worker counts and measures, for Prometheus."""

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
    """A histogram of seconds that takes many at once, and keeps the last ones as they are.

    prometheus_client's own takes a tenth of a worker's time, one Python call an event.
    """

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._family = (name, documentation)
        self._counts = np.zeros(len(SECONDS) + 1, np.int64)
        self._sum = 0.0
        self.last: deque[float] = deque(maxlen=REMEMBERED)
        registry.register(self)

    def observe(self, seconds: Iterable[float]) -> None:
        """Count these; a negative one, of a clock that runs behind, as zero."""
        values = np.maximum(np.fromiter(seconds, float), 0.0)
        places = np.searchsorted(SECONDS, values, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())
        self.last.extend(values.tolist())

    def quantiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile of the last ones; 0 where there is none."""
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
        self.batch_seconds = Spans(
            "activity_stream_batch_seconds", "From a batch read to its rows written.", own
        )
        self.on_bus_seconds = Spans(
            "activity_stream_on_bus_seconds", "From an event on the bus to its row online.", own
        )
        self.event_seconds = Spans(
            "activity_stream_event_seconds", "From an event's own time to its row online.", own
        )
        self._quantiles = Gauge(
            "activity_stream_event_seconds_quantile",
            f"The same, of the last {REMEMBERED} events.",
            ["quantile"],
            registry=own,
        )
        for place, quantile in enumerate(("0.5", "0.99")):
            self._quantiles.labels(quantile).set_function(partial(self._quantile, place))

    def _quantile(self, place: int) -> float:
        return self.event_seconds.quantiles()[place]

    def value(self, name: str, **labels: str) -> float:
        """Return one of these numbers: value("events_total", outcome="applied")."""
        return self.registry.get_sample_value(f"activity_stream_{name}", labels) or 0.0
