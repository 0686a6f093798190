"""What `make run` ends with: a member, a training join, where all of it lies, what to type next."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console

from models.lines import similarity_of
from operations.fits import made_lines
from pipelines.cli.show import show_member, show_value, someone
from pipelines.progress import working
from pipelines.terminal import PlainTable, escape
from pipelines.workspace import OpenWorkspace
from transformations import names
from transformations.config import ROOT, Config
from transformations.duck import connect, parquet
from transformations.layout import files_between

SHOWN_LABELS = 5


def guide(console: Console, config: Config, as_of: datetime) -> None:
    """Show one member, a training join, where everything lies and what to type next."""
    with connect(config) as con:
        member = someone(config, con, as_of)
    if member is None:
        console.print("\nNo member acted in this window, so there is no one to show.")
    else:
        console.print()
        show_member(console, config, member)
        console.print()
        _show_join(console, config, as_of)
    console.print()
    _show_places(console, config)
    console.print()
    _show_next(console, config, member)


def _show_join(console: Console, config: Config, as_of: datetime) -> None:
    """Show the first rows of a training set: labels joined with what was readable at their time."""
    labels = _labels(config, as_of)
    if labels.empty:
        console.print("No action lies in the last days, so there is no label to join.")
        return
    aggregator = made_lines(config)[-1]
    said: list[str] = []
    with working("joining labels"):
        joined = OpenWorkspace(config).join(labels, aggregator.name, said.append).to_pandas()
    joined = joined.sort_values(["event_timestamp", "member_id"])
    vector = next(iter(aggregator.vectors(config)))
    match = names.match_fields(vector, similarity_of(config, aggregator))[0]
    table = PlainTable(
        title=f"A training set: {len(labels)} actions joined with {aggregator.service},\n"
        "each with what could be read at its time",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    shown = ["member_id", "item_id", "event_timestamp", "action", "n_actions", vector, match]
    for name in ["member", "item", "when (UTC)", "action", "n", vector, match]:
        table.add_column(name, no_wrap=True)
    for member, item, at, action, count, values, fit in joined[shown].itertuples(index=False):
        head = "null" if values is None else " ".join(f"{x:+.2f}" for x in values[:2]) + " …"
        when = f"{at:%m-%d %H:%M}"
        table.add_row(str(member), str(item), when, action, str(count), head, show_value(fit))
    console.print(table)
    for sentence in said:
        console.print(f"[yellow]•[/] {escape(sentence)}", highlight=False)


def _labels(config: Config, as_of: datetime) -> pd.DataFrame:
    """Draw a few actions of the last three days, the same ones each time."""
    since = as_of - timedelta(days=3)
    files = files_between(config.layout.activity, since, as_of)
    with connect(config) as con:
        return con.execute(
            f"select member_id, item_id, action, event_timestamp from {parquet(files)} "
            "where event_timestamp >= $since and event_timestamp < $until "
            "order by md5(concat(member_id, item_id, event_timestamp)) limit $count",
            {"since": since, "until": as_of, "count": SHOWN_LABELS},
        ).df()


def _show_places(console: Console, config: Config) -> None:
    table = PlainTable(title="Where everything lies", title_justify="left", header_style="bold")
    table.add_column("what")
    table.add_column("where")
    places: Mapping[str, Path] = {
        "typed events, a partition a day": config.layout.activity,
        "refused rows, with the reason": config.layout.quarantine,
        "item vectors": made_lines(config)[-1].config_of(config).items_dir,
        "sequences, a partition a snapshot": config.layout.sequences,
        "vectors, a folder a view": config.layout.all_embeddings,
        "SavedModels and manifests": config.layout.artifacts,
        "Feast's settings (registry, stores)": config.path(config.feature_store),
    }
    for what, path in places.items():
        table.add_row(what, _relative(path))
    console.print(table)


def _show_next(console: Console, config: Config, member: int | str | None) -> None:
    service = made_lines(config)[-1].service
    shown = "MEMBER_ID" if member is None else member
    console.print("[bold]What to type next[/]")
    for command, what in (
        (f"activity show {shown}", "any member's vectors"),
        (f"activity candidates {shown}", "what each candidate source brings for it"),
        ("activity items map", "a page of the item spaces: maps, neighbours"),
        ("activity status", "what ran, what was refused, what is online"),
        (f"feast feature-services describe {service}", "what a ranker asks for"),
        ("activity run", "tomorrow's snapshot; put it into your scheduler"),
    ):
        console.print(
            f"  .venv/bin/{escape(f'{command:<50}')} [dim]{escape(what)}[/]",
            highlight=False,
            soft_wrap=True,
        )
    console.print("  README.md: fetch in a ranker, build a training set, add an aggregator")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
