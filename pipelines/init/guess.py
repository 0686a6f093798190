"""A workspace's settings, each with what it was taken from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipelines.init.actions import ActionsGuess
from pipelines.init.choose import Choice
from pipelines.init.events import EventsGuess
from pipelines.init.items import ItemsGuess
from pipelines.init.look import NEEDED, WINDOWS, Reach

DAY = timedelta(days=1)
FEW_PER_DAY = 50
SHARE = 0.75


@dataclass(frozen=True)
class Guess:
    """What `activity.yaml` will say; None: the user fills it in."""

    events: EventsGuess | None = None
    items: ItemsGuess | None = None
    member_id_type: Choice | None = None
    item_id_type: Choice | None = None
    actions: ActionsGuess | None = None
    window: Choice | None = None
    step: Choice | None = None


def days(duration: timedelta) -> str:
    """Write a duration of whole days as `activity.yaml` does: 28d."""
    return f"{duration.days}d"


def window(reach: Reach) -> Choice:
    """Return the shortest window in which three quarters of the positive actions have enough.

    Enough is NEEDED earlier actions of their member. Where no window gives that, the longest;
    or the shortest that covers all the time that there is, since a longer one adds nothing.

    >>> from datetime import UTC, datetime
    >>> first, last = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    >>> window(Reach(1000, first, last, 100, (10, 75, 80, 90))).value
    datetime.timedelta(days=90)
    """
    if reach.first is None or reach.last is None:
        return Choice(WINDOWS[0], "no action could be read")
    for length, n in zip(WINDOWS, reach.within, strict=True):
        share = n / max(1, reach.positive)
        if share >= SHARE:
            return Choice(
                length,
                f"{share:.0%} of positive actions have {NEEDED} earlier ones in {days(length)}",
            )
    span = reach.last - reach.first
    covering = [length for length in WINDOWS if length > span]
    length = covering[0] if covering else WINDOWS[-1]
    share = reach.within[WINDOWS.index(length)] / max(1, reach.positive)
    reason = f"covers all {span.days} days" if covering else "the longest"
    return Choice(
        length, f"{reason}; {share:.0%} of positive actions have {NEEDED} earlier ones in it"
    )


def step(reach: Reach) -> Choice:
    """Return how far snapshots lie apart: a day, or a week under 50 actions per day."""
    if reach.first is None or reach.last is None:
        return Choice(DAY, "no action could be read")
    per_day = reach.actions / max(1.0, (reach.last - reach.first) / DAY)
    length = 7 * DAY if per_day < FEW_PER_DAY else DAY
    return Choice(length, f"{per_day:,.0f} actions per day on average")


def rows(guess: Guess) -> Iterator[tuple[str, str, str]]:
    """Yield (what, guess, from what) for each choice."""
    events, items, actions = guess.events, guess.items, guess.actions
    if events is not None:
        for role, choice in events.columns.items():
            yield role, choice.value, choice.why
        yield "time unit", events.time_unit.value, events.time_unit.why
    for key in ("member_id_type", "item_id_type"):
        id_type: Choice | None = getattr(guess, key)
        if id_type is not None:
            yield key, id_type.value, id_type.why
    if actions is not None:
        for name, choice in actions.signs.items():
            yield f"action {name}", choice.value, f"{choice.why}; {actions.rows[name]:,} rows"
        for name, why in actions.left_out.items():
            shown = name or "(missing)"
            yield f"action {shown}", "left out", f"{actions.rows[name]:,} rows: {why}"
        if actions.max_refused_share is not None:
            share = actions.max_refused_share
            yield "max_refused_share", str(share.value), share.why
    for key, duration in (("window", guess.window), ("rhythm.snapshot", guess.step)):
        if duration is not None:
            yield key, days(duration.value), duration.why
    if items is not None:
        yield from _item_rows(items)


def _item_rows(items: ItemsGuess) -> Iterator[tuple[str, str, str]]:
    choices: Sequence[tuple[str, Choice | None]] = (
        ("item_id", items.item_id),
        ("embedding", items.embedding),
        ("encoder", items.encoder),
        ("dim", items.dim),
        ("text", items.text if items.embedding is None else None),
        ("categories", items.categories if items.embedding is None else None),
        ("available_at", items.available_at or Choice("none", "all items count as always known")),
        ("available_until", items.available_until),
    )
    for what, choice in choices:
        if choice is not None:
            value = choice.value
            shown = ", ".join(value) or "none" if isinstance(value, list) else str(value)
            yield f"items {what}", shown, choice.why
    if items.unread:
        yield "items, not read", ", ".join(items.unread), "neither words, categories nor times"
