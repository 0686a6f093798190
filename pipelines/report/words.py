"""How the report writes numbers, timestamps and what an interval shows."""

import math
from collections.abc import Sequence

from pipelines.report.result import Interval, Metric, Result, VariantRow

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def number(value: float | None, digits: int = 0) -> str:
    """Write a number, with commas; a dash for a missing one.

    >>> number(12345.678, 1), number(float("nan"))
    ('12,345.7', '\N{EN DASH}')
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 4) -> str:
    """Write a difference with its sign.

    >>> signed(0.00631), signed(float("nan"))
    ('+0.0063', '\N{EN DASH}')
    """
    if not math.isfinite(value):
        return DASH
    # A difference that rounds to zero has no sign.
    return (
        f"{value:+,.{digits}f}".replace("-", MINUS) if round(value, digits) else number(0, digits)
    )


def tick(value: float) -> str:
    """Write a difference at an axis: with its sign, in as few digits as needed.

    >>> tick(0.005), tick(0.0)
    ('+0.005', '0')
    """
    return f"{value:+.4g}".replace("-", MINUS) if abs(value) > 1e-12 else "0"


def shown_by(difference: Interval, higher_is_better: bool = True) -> str:
    """Return what an interval shows: better, worse or open (it reaches zero).

    >>> shown_by(Interval(estimate=0.2, low=0.1, high=0.3))
    'better'
    """
    above, below = difference.low > 0, difference.high < 0
    if not above and not below:
        return "open"
    return "better" if above == higher_is_better else "worse"


def listed(words: Sequence[str]) -> str:
    """Join words with commas and "and".

    >>> listed(["HR@10", "MAP", "MRR"])
    'HR@10, MAP and MRR'
    """
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def verdict(result: Result) -> list[str]:
    """Say how the challenger compares with the baseline, from the intervals alone."""
    variants = {variant.name: variant for variant in result.variants}
    if result.challenger is None or result.challenger == result.baseline:
        return []
    challenger, baseline = variants[result.challenger], variants[result.baseline]
    found: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for metric in result.metrics:
        if metric.key in challenger.difference:
            shown = shown_by(challenger.difference[metric.key], metric.higher_is_better)
            found[shown].append(_difference(challenger, metric))
    sentences = [
        f"{challenger.label} is {kind} than {baseline.label} on {listed(found[kind])}."
        for kind in ("better", "worse")
        if found[kind]
    ]
    if found["open"]:
        sentences.append(f"The interval reaches zero on {listed(found['open'])}.")
    return sentences + _bytes(challenger, baseline)


def _difference(variant: VariantRow, metric: Metric) -> str:
    return f"{metric.label} ({signed(variant.difference[metric.key].estimate, metric.digits)})"


def _bytes(challenger: VariantRow, baseline: VariantRow) -> list[str]:
    if not challenger.bytes_per_member or not baseline.bytes_per_member:
        return []
    ours, theirs = challenger.bytes_per_member, baseline.bytes_per_member
    share = f"{ours / theirs:.0%} of the {theirs:,} of {baseline.label}"
    return [f"It takes {ours:,} bytes per member, {share}."]
