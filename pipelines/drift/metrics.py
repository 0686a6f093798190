"""What was found of the newest snapshot, as Prometheus reads it."""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from operations.drift import counts
from operations.drift_rule import Finding


def write_metrics(found: Sequence[Finding], file: Path) -> None:
    """Write the findings of one snapshot in one step, for node_exporter's textfile collector.

    `activity_drift_measure` of each measure, `activity_drift_bound` of the bounds that it has, and
    `activity_drift_stops`: how many pause fitting.
    """
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"activity_drift_{name}", text, labels, registry=registry)

    for name, text in (
        ("stops", "Measures that pause fitting."),
        ("accepted", "Measures beyond a stop that a person accepted."),
        ("warnings", "Measures beyond a warning."),
    ):
        gauge(name, text).set(counts(found)[name])
    if found and found[0].as_of is not None:
        text = "The snapshot that was measured, as a Unix time."
        gauge("as_of_seconds", text).set(found[0].as_of.timestamp())
    names = ("about", "measure", "part")
    measures = gauge("measure", "A measure of the newest snapshot.", *names)
    bounds = gauge("bound", "Beyond which it warns, or stops.", *names, "bound")
    for one in found:
        measures.labels(*one.key).set(one.value)
        for verdict, ends in (("warning", one.warn), ("stop", one.stop)):
            for end, bound in zip(("low", "high"), ends, strict=True):
                if bound is not None:
                    bounds.labels(*one.key, f"{verdict}_{end}").set(bound)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(file), registry)
