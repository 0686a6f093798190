"""`activity run` without a timestamp: what is due, said or made."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipelines.cli.quick_feast import import_feast
from pipelines.progress import loading, plain_table
from transformations.config import Config

if TYPE_CHECKING:
    from operations.rhythm import Plan


def make_due(console: Console, settings: Config, only_say: bool, show_tour: bool) -> None:
    """Make what is due, or only say what that is and why; where nothing is, say so.

    Raises:
        InputError: the configuration's rhythms contradict each other, or another run is under way.
        RunFailedError: a part failed.
    """
    from operations.ledger import Ledger
    from operations.rhythm import plan

    ledger = Ledger(settings)
    planned = plan(settings, ledger)
    if only_say:
        console.print(table_of(planned))
        for said in sayings(planned):
            console.print(said, highlight=False, soft_wrap=True)
        return
    if planned.due:
        with loading("Feast and TensorFlow"):
            import_feast()
            from pipelines.rhythm import run_due

        with ledger.lock():
            planned = plan(settings, ledger)  # another run may just have ended
            if planned.due:
                stages = run_due(settings, planned, ledger, console)
                console.print()
                console.print(stages.table())
    if not planned.due:
        console.print(f"[green]✓[/] nothing is due. {next_of(planned)}", highlight=False)
    if show_tour:
        with loading("Feast"):
            import_feast()
            from pipelines.cli import tour

        tour.guide(console, settings, planned.as_of)


def table_of(planned: "Plan") -> Table:
    """Lay out the parts in the order in which they are made."""
    table = plain_table(f"Plan for the snapshot of {planned.as_of:%Y-%m-%d %H:%M} UTC")
    table.add_column("part", overflow="fold")
    table.add_column("due", no_wrap=True)
    table.add_column("why", overflow="fold")
    for part in planned.parts:
        at = "" if part.at is None else f"{part.at:%Y-%m-%d %H:%M}"
        word = "since" if at else "now"
        if not part.is_due:
            is_ahead = part.at is not None and part.at > planned.as_of
            word, at = ("not before", at) if is_ahead else ("no", "")
        table.add_row(str(part), f"{word} {at}".strip(), part.why)
    return table


def sayings(planned: "Plan") -> list[str]:
    """Say what the table does not."""
    waiting = [str(part) for part in planned.due if part.kind in ("space", "ranker")]
    said = []
    if planned.paused and waiting:
        said.append(
            f"[bold red]Fitting is paused,[/] so {', '.join(waiting)} would wait: activity drift"
        )
    if not planned.due:
        said.append(f"Nothing is due. {next_of(planned)}")
    return said


def next_of(planned: "Plan") -> str:
    """Say what is due next, and when."""
    ahead = [
        (part.at, str(part))
        for part in planned.parts
        if part.at is not None and part.at > planned.as_of
    ]
    at, what = min(ahead)  # the snapshot has always one
    return f"Next: {what}, {at:%Y-%m-%d %H:%M} UTC"
