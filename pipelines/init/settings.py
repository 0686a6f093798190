"""The text of a workspace's `activity.yaml`: each choice, and what it was taken from."""

import textwrap
from collections.abc import Iterator, Sequence

import yaml

from pipelines.init.actions import ActionsGuess
from pipelines.init.choose import Choice
from pipelines.init.events import EventsGuess
from pipelines.init.guess import Guess, days
from pipelines.init.items import ItemsGuess
from transformations.rules import IdType

WIDTH = 100
HEAD = """\
# Made by `activity init`; beside each choice stands what it was taken from. Every key with its
# default: docs/configuration.md. Relative paths start in this folder.
"""
NO_EVENTS = """\
# Your events: a Parquet or CSV file, a folder of either, or a SQLAlchemy URL with `table`.
events:
  source: source/events.parquet
  # What its columns are called:
  columns:
    member_id: member_id
    item_id: item_id
    action: action
    event_timestamp: event_timestamp
  # Or s, ms, us, ns for whole numbers since 1970; a time without a zone is UTC:
  time_unit: timestamp
"""
NO_TYPES = """\
# int64 where all ids are whole numbers, else string:
member_id_type: int64
item_id_type: int64
"""
NO_ACTIONS = """\
# Each action's name in the events, and whether it speaks for the item:
actions:
  APPLY: positive
  SAVE: positive
  DISMISS: negative

# How far back a sequence looks, and how far snapshots lie apart:
window: 28d
rhythm:
  snapshot: 1d
"""
NO_ITEMS = """\
# Your items: text and categories to make vectors from; or `embedding`, columns of vectors made
# elsewhere, each of `dim` numbers.
items:
  source: source/items.parquet
  item_id: item_id
  text: [title]
  categories: []
"""


def activity_yaml(guess: Guess) -> str:
    """Return the text; what was not looked at is a template to fill in."""
    parts = [HEAD.rstrip()]
    parts.append(
        _text(_events(guess.events, guess.actions)) if guess.events else NO_EVENTS.rstrip()
    )
    parts.append(_text(_id_types(guess)))
    if guess.actions and guess.window and guess.step:
        parts.append(_text(_actions(guess.actions, guess.window, guess.step)))
    else:
        parts.append(NO_ACTIONS.rstrip())
    parts.append(_text(_items(guess.items)) if guess.items else NO_ITEMS.rstrip())
    return "\n\n".join(parts) + "\n"


def scalar(value: object) -> str:
    """Write a value as YAML on one line.

    >>> scalar("APPLY"), scalar("no"), scalar(["a", "b: c"]), scalar(0.4)
    ('APPLY', "'no'", "[a, 'b: c']", '0.4')
    """
    # A line break or another control character is escaped, so that the value stays on its line.
    values = value if isinstance(value, list) else [value]
    style = None if all(str(one).isprintable() for one in values) else '"'
    text = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _text(lines: Iterator[str]) -> str:
    return "\n".join(lines)


def _comment(text: str, indent: str = "") -> Iterator[str]:
    # A name from the data may hold a line break; a comment must not end there.
    flat = " ".join(text.split())
    yield from textwrap.wrap(
        flat,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _line(key: str, value: object, why: str = "", indent: str = "") -> Iterator[str]:
    """Write a key, with the reason beside it where it fits, else above it."""
    line = f"{indent}{key}: {scalar(value)}"
    flat = " ".join(why.split())
    if not why:
        yield line
    elif len(line) + len(flat) + 4 <= WIDTH:
        yield f"{line}  # {flat}"
    else:
        yield from _comment(why, indent)
        yield line


def _events(events: EventsGuess, actions: ActionsGuess | None) -> Iterator[str]:
    yield "events:"
    yield from _line("source", events.source.written, indent="  ")
    if events.source.table is not None:
        yield from _line("table", events.source.table, indent="  ")
    yield "  columns:"
    for role, choice in events.columns.items():
        yield from _line(role, choice.value, choice.why, "    ")
    yield from _line("time_unit", events.time_unit.value, events.time_unit.why, "  ")
    if actions is not None and actions.max_refused_share is not None:
        share = actions.max_refused_share
        yield from _line("max_refused_share", share.value, share.why, "  ")


def _id_types(guess: Guess) -> Iterator[str]:
    types: Sequence[tuple[str, Choice | None]] = (
        ("member_id_type", guess.member_id_type),
        ("item_id_type", guess.item_id_type),
    )
    if not any(choice for _, choice in types):
        yield NO_TYPES.rstrip()
        return
    default: IdType = "int64"
    for key, choice in types:
        known = choice or Choice(default, "int64 where all ids are whole numbers, else string")
        yield from _line(key, known.value, known.why)


def _actions(actions: ActionsGuess, window: Choice, step: Choice) -> Iterator[str]:
    yield "actions:"
    for name, choice in actions.signs.items():
        why = f"{choice.why}; {actions.rows[name]:,} rows"
        yield from _line(scalar(name), choice.value, why, "  ")
    for name, why in actions.left_out.items():
        shown = scalar(name) if name.strip() else "(missing)"
        yield from _comment(
            f"{shown}: left out, {actions.rows[name]:,} rows, refused as unknown by a run: {why}.",
            "  ",
        )
    yield ""
    yield from _line("window", days(window.value), window.why)
    yield "rhythm:"
    yield from _line("snapshot", days(step.value), f"between snapshots; {step.why}", "  ")


def _items(items: ItemsGuess) -> Iterator[str]:
    yield "items:"
    yield from _line("source", items.source.written, indent="  ")
    if items.source.table is not None:
        yield from _line("table", items.source.table, indent="  ")
    choices: dict[str, Choice | None] = {"item_id": items.item_id}
    if items.embedding is not None:
        choices["embedding"] = items.embedding
    else:
        choices |= {"text": items.text, "categories": items.categories}
    choices |= {"available_at": items.available_at, "available_until": items.available_until}
    for key, choice in choices.items():
        if choice is not None:
            yield from _line(key, choice.value, choice.why, "  ")
    if items.unread:
        yield from _comment(f"Not read: {', '.join(items.unread)}.", "  ")
    if items.dim is not None:
        yield ""
        yield from _line("dim", items.dim.value, items.dim.why)
