"""Prometheus metrics of recommendations."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)
STAGES = ("candidates", "features", "ranking", "rules", "answer")


class RecommendMetrics:
    """The collectors of one service, in a separate registry.

    Attributes:
        requests, in_flight: As serving.request.limits.LoadLimit counts them.
    """

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "activity_recommend_requests",
            "Requests to /recommend, /members and /neighbours by HTTP status.",
            ["status"],
            registry=own,
        )
        self.in_flight = Gauge(
            "activity_recommend_inside", "Requests being read, waiting or computed.", registry=own
        )
        self.seconds = Histogram(
            "activity_recommend_seconds",
            "Seconds by stage: candidates (the member's row and what the sources bring), features "
            "and ranking (scores), rules (the list and its reasons), answer (all, with waiting).",
            ["stage"],
            buckets=SECONDS,
            registry=own,
        )
        self.answers = Counter(
            "activity_recommend_answers",
            "Answers by the path that made them: ranked, votes, cached, precomputed, popular.",
            ["path"],
            registry=own,
        )
        self.failures = Counter(
            "activity_recommend_failures",
            "What did not come: ranker (raised), late (not within the deadline), ranking (the "
            "store, a source), lists (precomputed ones), treatment (a release that has a share "
            "is not open, so the other one answers).",
            ["what"],
            registry=own,
        )
        self.candidates = Counter(
            "activity_recommend_candidates", "Candidates by source.", ["source"], registry=own
        )
        self.empty = Counter("activity_recommend_empty", "Answers without an item.", registry=own)
        self.refreshes = Counter(
            "activity_recommend_refreshes",
            "Checks for new fits, items and lists: changed, unchanged, failed.",
            ["outcome"],
            registry=own,
        )
        self.impressions = Counter(
            "activity_recommend_impressions",
            "Items shown, by what became of their rows: written, lost (the spool was full), unsent "
            "(written, but not sent to the topic).",
            ["outcome"],
            registry=own,
        )
        self.unwritten = Gauge(
            "activity_recommend_unwritten_answers",
            "Answers that wait to be written: what a kill would lose.",
            registry=own,
        )
        self.logged = Counter(
            "activity_recommend_logged_features",
            "Pairs of a member and an item whose features a ranker read, of the share that is "
            "logged: written, lost.",
            ["outcome"],
            registry=own,
        )
        for outcome in ("written", "lost", "unsent"):
            self.impressions.labels(outcome)
        for stage in STAGES:
            self.seconds.labels(stage)
