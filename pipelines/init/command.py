"""`activity init`: look, guess, write, say."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from pipelines.init import actions, database, events, items, look, write
from pipelines.init.guess import Guess, rows, step, window
from pipelines.init.look import Connection, Source
from pipelines.init.settings import activity_yaml
from pipelines.progress import short, working
from pipelines.terminal import PlainTable, escape
from transformations.errors import InputError
from transformations.places import is_in_database, is_in_objects, objects
from transformations.rules import Sign

ANSWERS: dict[str, Sign | None] = {"p": "positive", "n": "negative", "-": None}


@dataclass(frozen=True)
class Asked:
    """What the user said; None or empty: it is guessed.

    Attributes:
        events, items: A file, a folder or a SQLAlchemy URL.
        events_table, items_table: The table, for a URL.
        columns: Our name of an events column → the source's.
        items_id: The items' id column.
        encoder: What made the items' vectors.
        signs: Action → its sign.
    """

    events: str | None = None
    items: str | None = None
    events_table: str | None = None
    items_table: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    items_id: str | None = None
    encoder: str | None = None
    signs: Mapping[str, Sign] = field(default_factory=dict)


def run_init(console: Console, folder: str, asked: Asked) -> Path:
    """Make a workspace of the sources, say what was guessed, and return its folder.

    Raises:
        InputError: no workspace may be made there, a source cannot be read, or a choice cannot be
            guessed; the message names the option that makes it.
        RunFailedError: a database failed.
    """
    place = write.place(folder)
    write.refuse(place)
    _refuse_lone_options(asked)
    guess = make_guess(console, asked)
    items = guess.items
    given = None
    if items is not None and items.encoder is not None and items.embedding is not None:
        given = items.encoder.value, items.embedding.value
    write.write(place, write.files(place, activity_yaml(guess), given))
    _say(console, guess, place)
    return place


def make_guess(console: Console, asked: Asked) -> Guess:
    """Look at the sources and guess; nothing is written."""
    with look.looking() as con:
        seen: dict[str, Source] = {}
        for key, source, table in (
            ("events", asked.events, asked.events_table),
            ("items", asked.items, asked.items_table),
        ):
            if source is not None:
                with working(f"looking at the {key}"):
                    seen[key] = _look(con, key, source, table)
        return _guess(console, con, seen, asked)


def _look(con: Connection, key: str, source: str, table: str | None) -> Source:
    if is_in_database(source):
        written = database.written(key, source)
        relation, there = database.open_table(con, key, written, table)
        name = f"the table {table}"
    else:
        if table is not None:
            raise InputError(
                f"--{key}-table belongs to a database; --{key} {source} is a path. Give a URL such "
                "as sqlite:///file.db, or leave it out"
            )
        if is_in_objects(source):
            path, name = objects(f"--{key}", source), source
        else:
            path = Path(source).expanduser().resolve()
            name = short(path)
        written = str(path)
        relation, there = look.open_files(con, key, path), None
    n_rows, columns = look.profile(con, relation)
    if n_rows == 0:
        raise InputError(f"--{key}: expected rows to look at in {name}, got none")
    return Source(written, name, table, relation, n_rows, there or n_rows, columns)


def _guess(console: Console, con: Connection, seen: Mapping[str, Source], asked: Asked) -> Guess:
    found = seen.get("events")
    guessed_events = guessed_items = None
    shares: dict[tuple[str, str], float] = {}
    if len(seen) == 2:
        with working("comparing events and items"):
            shares = look.overlaps(con, seen["events"], seen["items"])
    if found is not None:
        guessed_events = events.guess_events(found, asked.columns, shares)
    if "items" in seen:
        column = guessed_events.names["item_id"] if guessed_events else None
        of_column = {item: share for (event, item), share in shares.items() if event == column}
        guessed_items = items.guess_items(
            seen["items"], asked.items_id, asked.encoder, of_column if column else None, column
        )
    of_items = [guessed_events.column("item_id")] if guessed_events else []
    if guessed_items is not None:
        of_items.append(guessed_items.source.column(guessed_items.item_id.value))
    item_type = events.id_type("item", of_items) if of_items else None
    if guessed_events is None or found is None or item_type is None:
        return Guess(items=guessed_items, item_id_type=item_type)

    member_type = events.id_type("member", [guessed_events.column("member_id")])
    with working("counting the actions"):
        counted = look.actions_of(con, found, guessed_events.names["action"])
    ask = _ask if sys.stdin.isatty() and console.is_terminal else None
    guessed_actions = actions.guess_actions(counted, asked.signs, ask)
    with working("trying windows"):
        reach = look.reach(
            con,
            found,
            guessed_events.names,
            (member_type.value, item_type.value),
            guessed_events.time_unit.value,
            guessed_actions.of("positive"),
            guessed_actions.of("negative"),
        )
    return Guess(
        guessed_events,
        guessed_items,
        member_type,
        item_type,
        guessed_actions,
        window(reach),
        step(reach),
    )


def _ask(action: str, n_rows: int) -> Sign | None:
    question = f"{action} ({n_rows:,} rows): does it speak for the item (p), against it (n), or - "
    while (answer := typer.prompt(question, default="-").strip().lower()[:1]) not in ANSWERS:
        typer.echo("expected p, n or -")
    return ANSWERS[answer]


def _refuse_lone_options(asked: Asked) -> None:
    """Refuse an option whose source is not given: it would have no effect."""
    of_events = {**asked.columns, **asked.signs} or asked.events_table
    of_items = asked.items_id or asked.encoder or asked.items_table
    for key, source, others in (
        ("events", asked.events, of_events),
        ("items", asked.items, of_items),
    ):
        if others and source is None:
            raise InputError(
                f"expected --{key} SOURCE with the options that say how to read the {key}, got none"
            )


def _say(console: Console, guess: Guess, place: Path) -> None:
    name, file = shlex.quote(short(place)), short(place / "activity.yaml")
    console.print(f"[green]✓[/] {escape(name)} is a workspace", soft_wrap=True, highlight=False)
    for source in (guess.events, guess.items):
        if source is not None:
            _say_source(console, source.source)
    lines = list(rows(guess))
    if lines:
        console.print()
        console.print(table(lines))
    else:
        console.print(
            f"Nothing was looked at: fill in events.source and items.source in {escape(file)}",
            soft_wrap=True,
            highlight=False,
        )
    missing = [key for key in ("events", "items") if getattr(guess, key) is None]
    if lines and missing:
        console.print(f"\nStill to fill in, in {escape(file)}: {missing[0]}.source", soft_wrap=True)
    console.print(
        f"\nA wrong guess: change it in {escape(file)}. Then:", soft_wrap=True, highlight=False
    )
    for command in ("check", "run"):
        console.print(
            f"  activity {escape(command)} --config {escape(name)}", soft_wrap=True, highlight=False
        )


def _say_source(console: Console, source: Source) -> None:
    part = "" if source.rows == source.rows_there else f"the first {source.rows:,} of "
    console.print(
        f"  looked at {part}{source.rows_there:,} rows of {escape(source.name)}",
        soft_wrap=True,
        highlight=False,
    )


def table(lines: list[tuple[str, str, str]]) -> Table:
    """Lay out (what, guess, from what); it folds long texts to the width of the terminal."""
    shown = PlainTable(title="What was guessed", title_justify="left", header_style="bold")
    shown.add_column("what", overflow="fold", max_width=22)
    shown.add_column("guess", overflow="fold", max_width=24)
    shown.add_column("from what", overflow="fold")
    for line in lines:
        shown.add_row(*line)
    return shown
