"""The request-time service's Prometheus metrics."""

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.request.vectors import Embedded, RequestTime

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 5)
AGES = (1, 10, 60, 600, 3_600, 6 * 3_600, 12 * 3_600, 86_400, 2 * 86_400, 7 * 86_400)


class RequestMetrics:
    """The collectors of one service, in a separate registry."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "activity_embed_requests", "POST /embed by HTTP status.", ["status"], registry=own
        )
        self.in_flight = Gauge(
            "activity_embed_inside", "Requests being read, waiting or computed.", registry=own
        )
        self.embed_seconds = Histogram(
            "activity_embed_seconds",
            "From a validated request to its vectors, without the wait for a thread.",
            buckets=SECONDS,
            registry=own,
        )
        self.members = Counter(
            "activity_embed_members",
            "Requested members: stored (the online store has a row) or unknown.",
            ["what"],
            registry=own,
        )
        self.row_age = Histogram(
            "activity_embed_row_age_seconds",
            "Age of each requested member's stored sequence at as_of. The share above a bound is "
            "the share of members served from rows older than that.",
            buckets=AGES,
            registry=own,
        )
        self.refreshes = Counter(
            "activity_embed_refreshes",
            "Checks for new models and items: changed, unchanged, failed.",
            ["outcome"],
            registry=own,
        )
        self.items = Gauge("activity_embed_items", "Items in the mapped table.", registry=own)
        self.models = Gauge(
            "activity_embed_model",
            "1 for a served model, 0 for one that is no longer served.",
            ["view", "model_version"],
            registry=own,
        )
        self._served: set[tuple[str, str]] = set()

    def answered(self, embedded: Embedded) -> None:
        """Count the members of an answer, and the ages of their stored rows."""
        as_of = np.datetime64(embedded.as_of.replace(tzinfo=None), "us")
        stored = ~np.isnat(embedded.sequence_at)
        for age in (as_of - embedded.sequence_at[stored]) / np.timedelta64(1, "s"):
            self.row_age.observe(float(age))
        self.members.labels("stored").inc(int(stored.sum()))
        self.members.labels("unknown").inc(int((~stored).sum()))

    def serving(self, requests: RequestTime) -> None:
        """Note which items and models are served now."""
        self.items.set(len(requests.items))
        loaded = requests.loaded
        served = {(model.aggregator.view, model.model_version) for model in loaded}
        for labels in served | self._served:
            self.models.labels(*labels).set(labels in served)
        self._served |= served
