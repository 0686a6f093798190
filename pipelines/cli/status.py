"""`activity status`: whether all is well, what ran, what is staged, refused, built and online."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from operations.drift import counts, findings
from operations.fits import Fits, current_lines, say_kept
from operations.ledger import Ledger
from operations.releases import TARGETS, releases, serving
from operations.state_files import state_files
from operations.traffic import traffic
from pipelines.progress import number, plain_table, short, stage_table
from pipelines.terminal import escape
from pipelines.workspace import OpenWorkspace, table_of
from transformations import archive, clock
from transformations.config import Config
from transformations.duck import connect, parquet
from transformations.layout import partition_files, span
from transformations.seals import damage
from transformations.sources.files import say_passed_over
from transformations.table_files import table_files

GIVE_UP = (
    "lost: what a replay of its day would stage. Restore it from a copy, or give it up: "
    "activity rebuild --damaged"
)
LATE = timedelta(hours=12)
"""A snapshot is late that long after the next was due, unless it covers the newest staged event."""


def status(console: Console, config: Config) -> None:
    """Show the last runs, what is staged and refused, the snapshots, and what is online."""
    ledger = Ledger(config)
    runs = ledger.last_runs()
    now = clock.now()
    console.print(verdict(config, ledger, runs, now), highlight=False)
    if said := _serving(config):
        console.print(said, highlight=False)
    if drifted := drift_line(ledger):
        console.print(drifted, highlight=False)
    console.print()
    console.print(_runs_table(runs))
    for run in runs:
        if run["error"]:
            first = run["error"].splitlines()[0]
            console.print(f"run {run['run_id']}: {escape(first)}", highlight=False)
    staged = [run for run in runs if run["stages"]]
    if staged:
        console.print()
        console.print(
            stage_table(
                (s["stage"], s["rows_in"], s["rows_out"], s["refused"], s["seconds"])
                for s in staged[0]["stages"]
            )
        )
    console.print()
    console.print(table_of(OpenWorkspace(config).tables()))
    with connect(config) as con:
        refused = _refused(config, con)
    if refused.row_count:
        console.print()
        console.print(refused)
    for said in say_passed_over(config):
        console.print(escape(said), highlight=False, soft_wrap=True)
    for said in say_kept(Fits(config).kept(current_lines(config))):
        console.print(said, highlight=False, soft_wrap=True)


def verdict(
    config: Config, ledger: Ledger, runs: Sequence[Mapping[str, Any]], now: datetime
) -> str:
    """Say in one sentence whether all is well, and what to do if it is not."""
    newest = ledger.newest_published()
    last = next((run for run in runs if run["command"] == "run"), None)
    if ledger.is_running():
        return "[bold]A run is under way.[/] What is online stays until it ends."
    if last is not None and last["status"] != "done":
        how = "failed" if last["status"] == "failed" else "was killed"
        return (
            f"[bold red]The last run {how}[/] ({last['started_at'][:16]} UTC): see its error "
            "below, mend the cause, then: activity run"
        )
    if newest is None:
        return "[bold]Nothing is online yet.[/] First: activity run"
    online = f"Online: the snapshot of {newest:%Y-%m-%d %H:%M} UTC"
    staged = span(partition_files(config.layout.activity))
    covered = staged is not None and newest > staged[1]
    if now - newest <= config.rhythm.step + LATE:
        return f"[green]All is well.[/] {online}."
    age = (now - newest).days
    if covered:
        return f"[green]All is well.[/] {online}, {age} days old: no newer event is staged."
    return f"[bold red]The snapshot is {age} days old.[/] {online}; to renew it: activity run"


def _serving(config: Config) -> str:
    """Say which release serves, and whether a newer one waits; empty before there was one."""
    every = releases(config)
    if not every:
        return ""
    by = {target: serving(config, target) for target in TARGETS}
    if len({*by.values()}) == 1:
        number = by["online"]
        said = "No release serves." if number is None else f"Release {number} serves."
    else:
        said = "; ".join(f"{target}: release {number}" for target, number in by.items()) + "."
    newest, shared = every[0], traffic(config).shared
    if shared is not None:
        says = shared.verdict or "no run has read it yet"
        said += f" Release {shared.release} answers {shared.share:.0%} of the members; {says}"
    waits = newest.number not in (*by.values(), shared and shared.release)
    if newest.is_living and waits:
        why = f": {newest.refused}" if newest.refused else ""
        said += f" Release {newest.number} is made and does not serve{why}."
    return escape(said)


def drift_line(ledger: Ledger) -> str:
    """Say in one line what of the newest data is unusual; nothing if nothing is."""
    found = counts(findings(ledger))
    names = {"stops": "stop", "warnings": "warning"}
    said = ", ".join(
        f"{count} {names.get(name, name) if count == 1 else name}"
        for name, count in found.items()
        if count
    )
    if not said:
        return ""
    begins = "[bold red]Drift pauses fitting:[/]" if found["stops"] else "[yellow]Drift:[/]"
    return f"{begins} {said}; activity drift"


def _runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("Last runs")
    for name in ("run", "command", "as of", "started (UTC)", "status"):
        table.add_column(name, no_wrap=True)
    for run in runs:
        status = run["status"] + (", online" if run["published_at"] else "")
        times = [(run[key] or "")[:16].replace("T", " ") for key in ("as_of", "started_at")]
        table.add_row(str(run["run_id"]), run["command"], *times, status)
    return table


def files_table(config: Config) -> tuple[Table, bool]:
    """Lay out every state file with its health; also return whether all are whole.

    Of the tables' files only damaged ones have a row each.
    """
    table = plain_table("Files")
    for name in ("file", "what it is", "health", "to mend it"):
        table.add_column(name, overflow="fold")
    whole = True
    for one in state_files(config):
        problem = one.problem
        whole &= problem is None
        there = "whole" if one.file.exists() else "not there"
        mend = "" if problem is None else f"lost: {one.lost}. {one.command}"
        table.add_row(short(one.file), one.name, problem or there, mend)
    mends = {file.path: file.mend for file in table_files(config)}
    damaged = list(damage(mends))
    for found in damaged:
        table.add_row(short(found.file), "table", f"damaged: {found.why}", mends[found.file])
    count = number(len(mends) - len(damaged))
    table.add_row(f"{count} files of tables", "tables", "whole", "")
    broken = list(archive.damage(config))
    for found in broken:
        table.add_row(short(found.file), "archive", f"damaged: {found.why}", GIVE_UP)
    if not broken and config.layout.archive.exists():
        kept = {read.sha256 for read in archive.reads(config)} - {None}
        table.add_row(f"{number(len(kept))} objects of the archive", "archive", "whole", "")
    return table, whole and not damaged and not broken


def _refused(config: Config, con: duckdb.DuckDBPyConnection) -> Table:
    table = plain_table("Refused rows (quarantine)")
    table.add_column("reason", overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    files = partition_files(config.layout.quarantine)
    if files:
        counts = con.execute(
            f"select reason, count(*) from {parquet(files)} group by all order by 2 desc, 1"
        ).fetchall()
        for reason, count in counts:
            table.add_row(reason, number(count))
    return table
