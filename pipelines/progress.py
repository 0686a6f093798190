"""How a command shows what it does: a bar while a stage lasts, a line when it is over, a table.

A terminal shows a bar with what is done, rows per second, the time left and the time passed. A pipe
or a log gets a line once a stage has lasted 2 seconds, and again whenever that time has doubled, at
most a minute later: a log stays short, and the last line of one that hangs is a minute old.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipelines.terminal import PlainTable, Terminal, escape

if TYPE_CHECKING:
    from operations.ledger import Ledger

FIRST, MOST = 2.0, 60.0
"""Seconds until a log is first told of a stage, and at most between two such lines."""


@dataclass
class Stage:
    """One stage under way; the flow fills in what it took and gave.

    Attributes:
        total: How many `unit` there are to do; None: not known.
        unit: What is counted, in the plural.
        doing: What is being done now, where the name does not say it.
        clock: Seconds, as time.monotonic.
    """

    name: str
    total: int | None = None
    unit: str = "rows"
    clock: Callable[[], float] = monotonic
    doing: str = ""
    rows_in: int | None = None
    rows_out: int | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    done: int = 0
    ended: float | None = None

    def __post_init__(self) -> None:
        """Begin now."""
        self.began = self.counted_since = self.updated = self.clock()

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return (self.clock() if self.ended is None else self.ended) - self.began

    def advance(self, steps: int) -> None:
        """Count what was done: rows, or what `unit` says."""
        self.done += steps

    def update(self, done: int, total: int | None = None, doing: str = "") -> None:
        """Say how much is done of how much, and what is being done now.

        A count that starts again starts its estimate again, from where the one before ended.
        """
        if done < self.done:
            self.counted_since = self.updated
        self.updated = self.clock()
        self.done, self.total, self.doing = done, total or self.total, doing or self.doing

    @property
    def what(self) -> str:
        """The name, and what is being done now."""
        return f"{self.name}: {self.doing}" if self.doing else self.name

    @property
    def pace(self) -> str:
        """How much is done, how fast, how long it has lasted and how long it will.

        >>> now = iter([0.0, 8.0, 8.0]).__next__
        >>> Stage("publish", total=5_000, done=2_000, clock=now).pace
        '2,000 of 5,000 rows, 250 per second, 8 s, about 12 s left'
        """
        counted = self.clock() - self.counted_since
        rate = self.done / counted if counted > 0 else 0.0
        left = (self.total or 0) - self.done
        parts = []
        if self.total and left >= 0:
            parts.append(f"{self.done:,} of {self.total:,} {self.unit}")
        elif self.done:
            parts.append(f"{self.done:,} {self.unit}")
        if rate >= 1:
            parts.append(f"{rate:,.0f} per second")
        parts.append(duration(self.seconds))
        if left > 0 and rate:
            parts.append(f"about {duration(left / rate)} left")
        return ", ".join(parts)


class Stages:
    """Shows the stages of one run and notes them in the ledger."""

    def __init__(self, console: Console, ledger: "Ledger", run_id: int) -> None:
        """Collect the stages of run `run_id`."""
        self.console = console
        self.ledger = ledger
        self.run_id = run_id
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Stage]:
        """Show what the block does, then one line; note the stage when it succeeded."""
        with shown(Stage(name, total, unit), self.console) as stage:
            yield stage
        self.done.append(stage)
        self.ledger.stage(
            self.run_id, name, stage.rows_in, stage.rows_out, stage.refused, stage.seconds
        )
        rows = "" if stage.rows_out is None else f"{number(stage.rows_out)} rows"
        self.console.print(
            f"[green]✓[/] {name:<18} {rows:>15} {stage.seconds:7.1f} s  "
            f"[dim]{escape(stage.note)}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def table(self) -> Table:
        """Return how many rows each stage took, gave and refused."""
        return stage_table((s.name, s.rows_in, s.rows_out, s.refused, s.seconds) for s in self.done)


@contextmanager
def working(
    what: str, total: int | None = None, unit: str = "rows", *, at_once: bool = False
) -> Iterator[Stage]:
    """Show on stderr what a command does before it has something to print.

    Args:
        at_once: A log is told of it as it begins.
    """
    console = Terminal(stderr=True)
    if at_once and not is_live(console):
        _tell(console, what)
    with shown(Stage(what, total, unit), console) as stage:
        yield stage


def loading(libraries: str) -> AbstractContextManager[Stage]:
    """Show that libraries are loaded: the first line of a command comes before its imports."""
    return working(f"loading {libraries}", at_once=True)


@contextmanager
def shown(stage: Stage, console: Console) -> Iterator[Stage]:
    """Show a stage while the block runs, as a bar that leaves nothing behind, or as lines."""
    if is_live(console):
        spinner = Spinner("dots")
        with Live(
            get_renderable=lambda: _bar(stage, spinner),
            console=console,
            transient=True,
            refresh_per_second=10,
        ):
            yield stage
            stage.ended = stage.clock()
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=tell_while, args=(stage, console, ended.wait), name=stage.name, daemon=True
    )
    thread.start()
    try:
        yield stage
        stage.ended = stage.clock()
    finally:
        ended.set()
        thread.join()


def tell_while(stage: Stage, console: Console, ended: Callable[[float], bool]) -> None:
    """Print a line of a stage now and then until it has ended.

    Args:
        ended: Waits that many seconds, or until the stage ends; returns whether it has.
    """
    while not ended(min(max(stage.seconds, FIRST), MOST)):
        _tell(console, f"{stage.what}, {stage.pace}")


def is_live(console: Console) -> bool:
    """Whether what is printed can be painted over."""
    return console.is_terminal and not console.is_dumb_terminal


def _tell(console: Console, text: str) -> None:
    console.print(f"… {text}", highlight=False, markup=False, soft_wrap=True)


def _bar(stage: Stage, spinner: Spinner) -> Group:
    """Return two lines: both together do not fit into 80 columns."""
    line = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [spinner, Text(stage.what)]
    if stage.total and stage.done <= stage.total:
        cells.append(ProgressBar(total=stage.total, completed=stage.done, width=20))
    line.add_row(*cells)
    return Group(line, Text(f"  {stage.pace}", style="dim"))


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
    return PlainTable(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )


def number(value: int | None) -> str:
    """Write a count with thousands separators; nothing for one that is not known."""
    return "" if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """Write a time in its largest two units.

    >>> duration(8.4), duration(125), duration(7_384)
    ('8 s', '2 min 5 s', '2 h 3 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
