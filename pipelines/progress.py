"""How a run shows what it does: a line per stage, a bar while one lasts, a table at the end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from operations.ledger import Ledger


@dataclass
class Stage:
    """One stage under way; the flow fills in what it took and gave."""

    name: str
    bar: Progress
    task: TaskID
    rows_in: int | None = None
    rows_out: int | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0

    def advance(self, steps: int) -> None:
        """Move the bar on by a number of rows (or days, or views)."""
        self.bar.advance(self.task, steps)

    def total(self, steps: int) -> None:
        """Say how long the bar is, once it is known."""
        self.bar.update(self.task, total=steps)


class Stages:
    """Shows the stages of one run and notes them in the ledger."""

    def __init__(self, console: Console, ledger: "Ledger", run_id: int) -> None:
        """Collect the stages of run `run_id`."""
        self.console = console
        self.ledger = ledger
        self.run_id = run_id
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Show a bar while the block runs, then one line; note the stage when it succeeded."""
        with bar(self.console) as progress:
            stage = Stage(name, progress, progress.add_task(name, total=total))
            began = perf_counter()
            yield stage
            stage.seconds = perf_counter() - began
        self.done.append(stage)
        self.ledger.stage(
            self.run_id, name, stage.rows_in, stage.rows_out, stage.refused, stage.seconds
        )
        rows = "" if stage.rows_out is None else f"{number(stage.rows_out)} rows"
        self.console.print(
            f"[green]✓[/] {name:<18} {rows:>15} {stage.seconds:7.1f} s  [dim]{stage.note}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def table(self) -> Table:
        """Return how many rows each stage took, gave and refused."""
        return stage_table((s.name, s.rows_in, s.rows_out, s.refused, s.seconds) for s in self.done)


def stage_table(
    stages: Iterator[tuple[str, int | None, int | None, Mapping[str, int], float]],
) -> Table:
    """Lay out stages as a table: rows in, rows out, refused with reasons, seconds."""
    table = plain_table("Rows by stage")
    table.add_column("stage", no_wrap=True)
    for name in ("rows in", "rows out", "seconds", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why refused")
    for name, rows_in, rows_out, refused, seconds in stages:
        why = "\n".join(f"{reason}: {number(count)}" for reason, count in sorted(refused.items()))
        total = number(sum(refused.values()) or None)
        table.add_row(name, number(rows_in), number(rows_out), f"{seconds:.1f}", total, why)
    return table


def plain_table(title: str) -> Table:
    """Return an empty table that spends no width on lines: 80 columns have to do."""
    return Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )


def bar(console: Console) -> Progress:
    """Return a progress bar that leaves nothing behind."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def number(value: int | None) -> str:
    """Write a count with thousands separators; nothing for one that is not known."""
    return "" if value is None else f"{value:,}"


def short(path: Path) -> str:
    """Write a path below the present folder without that folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def megabytes(folder: Path) -> float:
    """Return how much the files of a folder hold; links are not followed."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files) / 1e6
