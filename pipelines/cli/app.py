"""The command line `activity`: simulate, import, run, backfill, show, status."""

import sys
import traceback
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from pipelines.cli import (
    archive,
    backup,
    candidates,
    check,
    drift,
    due,
    evaluate,
    experiment,
    export,
    fits,
    forget,
    gate,
    init,
    items,
    models,
    operate,
    options,
    recommend,
    release,
    reset,
    serve,
    stream,
    sweep,
)
from pipelines.cli.options import (
    ConfigOption,
    DebugOption,
    EngineOption,
    by_engine,
    read_duration,
    settings_of,
)
from pipelines.cli.quick_feast import import_feast
from pipelines.progress import Stages, loading, number, short, working
from pipelines.terminal import Terminal, escape, visible
from transformations import clock
from transformations.config import Config
from transformations.errors import ActivityError, InputError, is_no_space
from transformations.secrets import redact, redact_logs
from transformations.timestamps import read_timestamp

# Commands import what they need inside: `--help`, a wrong option and `status` answer at once.

app = typer.Typer(
    name="activity",
    help="Member activity embeddings as features: build, publish, look at them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
imports = typer.Typer(no_args_is_help=True, help="Read a public data set.")
app.add_typer(imports, name="import")
for part in (
    init, check, reset, backup, archive, drift, fits, release, items, candidates, recommend, export,
    models, evaluate, gate, experiment, forget, serve, stream, sweep,
    operate,
):  # fmt: skip
    app.add_typer(part.app)

console = Terminal()


@app.command("simulate", epilog="Example: activity simulate --members 2000 --jobs 500 --days 40")
def simulate_command(
    config: ConfigOption = None,
    members: Annotated[int, typer.Option(help="How many members.")] = 20_000,
    jobs: Annotated[int, typer.Option(help="How many jobs.")] = 5_000,
    days: Annotated[int, typer.Option(help="How many days, the last one ending at END.")] = 60,
    seed: Annotated[int, typer.Option(help="Another seed, another market.")] = 7,
    end: Annotated[str | None, typer.Option(help="A date; default: the last midnight UTC.")] = None,
    if_needed: Annotated[
        bool,
        typer.Option(
            "--if-needed",
            help="Do nothing when there are events, or when the configuration names its own.",
        ),
    ] = False,
    closed_loop: Annotated[
        bool,
        typer.Option(
            "--closed-loop",
            help="Members are shown what the recommender recommends, and what they do then is in "
            "the next night's run.",
        ),
    ] = False,
    lived: Annotated[
        int, typer.Option(min=1, help="With --closed-loop: how many of the days are lived so.")
    ] = 14,
    debug: DebugOption = False,
) -> None:
    """Simulate a small job market into the data folder, to try the flow on.

    Courses, searches and a feed with its impressions are there where the configuration reads them.
    With --closed-loop there are jobs alone, and the feed of the last days is what this workspace
    recommends: each night is run, each day lived, at the simulation's own time.
    """
    settings = settings_of(config)
    folder = settings.layout.simulated
    simulated = not settings.events.is_sql and settings.path(settings.events.source).is_relative_to(
        folder
    )
    if if_needed and (not simulated or settings.path(settings.events.source).exists()):
        return
    if not simulated:
        raise InputError(
            f"the configuration reads its events from {settings.events.source}, not from "
            f"{folder}; what is simulated there would not be read"
        )

    from pipelines.datasets.simulate import Parts, Size, simulate

    if closed_loop:
        with loading("Feast and TensorFlow"):
            import_feast()
            from pipelines.living import live_in

        size, until = (
            Size(members=members, jobs=jobs, days=days),
            read_timestamp(end) if end else None,
        )
        live_in(settings, size, seed, until, lived, console)
        return

    with working("simulating a job market", days + 2, "steps") as stage:
        counts = simulate(
            folder,
            Size(members=members, jobs=jobs, days=days),
            seed=seed,
            end=read_timestamp(end) if end else None,
            progress=stage.advance,
            parts=Parts.read_by(settings),
        )
    figures = ", ".join(f"{number(count)} {name}" for name, count in counts.items())
    console.print(
        f"[green]✓[/] simulated {figures} over {days} days in {escape(short(folder))}",
        soft_wrap=True,
    )


@imports.command(
    "movietweetings",
    epilog="Example: activity import movietweetings ~/movietweetings data/movietweetings",
)
def import_movietweetings_command(
    source: Annotated[Path, typer.Argument(help="Folder with ratings.dat[.gz], movies.dat[.gz].")],
    destination: Annotated[Path, typer.Argument(help="Folder for events and items.parquet.")],
    debug: DebugOption = False,
) -> None:
    """Read MovieTweetings: 8 and above is APPLY, 6 and 7 SAVE, 5 and below DISMISS."""
    from pipelines.datasets.movietweetings import import_movietweetings

    with working("reading MovieTweetings"):
        report = import_movietweetings(source, destination)
    console.print(
        f"[green]✓[/] {number(report.events)} events and {number(report.items)} items in "
        f"{escape(short(destination))}; {number(report.refused)} lines refused"
        + (f" (see {escape(short(destination / 'refused.txt'))})" if report.refused else ""),
        soft_wrap=True,
    )
    console.print(
        "To make a workspace of them: activity init movietweetings "
        f"--events {escape(quote(short(destination / 'events.parquet')))} "
        f"--items {escape(quote(short(destination / 'items.parquet')))}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("run", epilog="Example: activity run --as-of 2026-01-31")
def run_command(
    config: ConfigOption = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Build the snapshot of this timestamp (UTC), whatever is due. [bold]last[/]: the "
            "end of the last day that has events."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what is due, and why; nothing is made.")
    ] = False,
    backfill: Annotated[
        int, typer.Option(min=0, help="Build this many days before it too, for training joins.")
    ] = 0,
    show_tour: Annotated[
        bool, typer.Option("--tour", help="End by showing what was made, and what to do with it.")
    ] = False,
    engine: EngineOption = None,
    debug: DebugOption = False,
) -> None:
    """Make what is due: the snapshot, fits of item spaces, lists, rankers (`rhythm`).

    With --as-of or --backfill: read, build, embed, publish and read back that snapshot.
    """
    settings = by_engine(settings_of(config), engine)
    if as_of is None and not backfill:
        due.make_due(console, settings, plan, show_tour)
        return
    if plan:
        raise InputError("--plan says what is due; expected it without --as-of and --backfill")
    given = None if as_of in (None, "last") else read_timestamp(str(as_of))

    with loading("Feast and TensorFlow"):
        import_feast()
        from operations.ledger import Ledger
        from pipelines.daily import last_midnight
        from pipelines.rhythm import run_whole

    asked = last_midnight() if as_of is None else given
    ledger = Ledger(settings)
    with ledger.lock():
        built, stages = run_whole(settings, asked, backfill, ledger, console)
    console.print()
    console.print(stages.table())
    if show_tour:
        from pipelines.cli import tour

        tour.guide(console, settings, built)


@app.command("backfill", epilog="Example: activity backfill --from 2026-01-01 --to 2026-01-14")
def backfill_command(
    first: Annotated[str, typer.Option("--from", help="The first day, as a date (UTC).")],
    last: Annotated[
        str | None,
        typer.Option("--to", help="The last day; default: the day before the last run's."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="The time between two snapshots, as 7d; default: rhythm.snapshot."),
    ] = None,
    config: ConfigOption = None,
    engine: EngineOption = None,
    debug: DebugOption = False,
) -> None:
    """Build the snapshots of past days for training joins; what is online stays the newest."""
    settings = by_engine(settings_of(config), engine)
    start, given = read_timestamp(first), read_timestamp(last) if last else None

    with loading("Feast and TensorFlow"):
        import_feast()
        from operations.ledger import Ledger
        from pipelines.backfill import run_backfill
        from pipelines.daily import last_midnight

    ledger = Ledger(settings)
    end = given or (ledger.newest_published() or last_midnight()) - timedelta(days=1)
    if start > end:
        raise InputError(f"expected --from before --to, got {start:%Y-%m-%d} to {end:%Y-%m-%d}")
    if end > clock.now():
        raise InputError(f"--to {end:%Y-%m-%d} lies in the future; it is not over yet")
    step = read_duration(every) if every else settings.rhythm.step
    days = [start + number * step for number in range((end - start) // step + 1)]
    with ledger.lock(), ledger.run("backfill", days[-1]) as run_id:
        stages = Stages(console, ledger, run_id)
        built = run_backfill(settings, days, stages, step=step)
    console.print()
    console.print(stages.table())
    kept = len(ledger.published_as_ofs() & set(days) - set(built))
    if kept:
        console.print(f"{kept} of the {len(days)} days were published live and are kept.")


@app.command("show", epilog="Example: activity show 42")
def show_command(
    member_id: Annotated[str, typer.Argument(help="A member's id, as in the events.")],
    full: Annotated[bool, typer.Option("--full", help="Whole texts of the items.")] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show a member's last actions, and its vectors as the online store returns them."""
    settings = settings_of(config)
    _refuse_unbuilt(settings)

    with loading("Feast"):
        import_feast()
        from pipelines.cli import show

    show.show_member(console, settings, member_id, full=full)


@app.command("status", epilog="Example: activity status")
def status_command(
    files: Annotated[
        bool,
        typer.Option("--files", help="Show every state file, its health, and what mends it."),
    ] = False,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show what ran, what is staged, refused, built and online."""
    settings = settings_of(config)
    if files:
        from pipelines.cli.status import files_table

        table, whole = files_table(settings)
        console.print(table)
        if not whole:
            raise typer.Exit(1)
        return
    _refuse_unbuilt(settings)

    from pipelines.cli.status import status

    status(console, settings)


def main() -> None:
    """Run the command line: 2 for a wrong input, 1 for a failed run, no traceback by default."""
    redact_logs()
    try:
        app()
    except ActivityError as error:
        if "--debug" in sys.argv:
            _trace()
        kind = "wrong input" if isinstance(error, InputError) else "run failed"
        _complain(kind, str(error))
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except Exception as error:
        if "--debug" in sys.argv:
            _trace()
        broken = _damaged()
        if broken:
            _complain("run failed", f"{broken}\n({type(error).__name__}: {error})")
        elif is_no_space(error):
            _complain("run failed", f"no space is left on a disk: {error}; what is whole is kept")
        else:
            _complain("unexpected", f"{type(error).__name__}: {error}\nSee more with --debug.")
        raise SystemExit(1) from None


def _complain(kind: str, message: str) -> None:
    text = f"[bold red]{kind}:[/] {escape(redact(message))}"
    Terminal(stderr=True).print(text, highlight=False, soft_wrap=True)


def _damaged() -> str:
    """Name the damaged state files of the workspace that the command acted on."""
    from operations.state_files import damaged

    return "" if options.ACTED_ON is None else "\n".join(map(str, damaged(options.ACTED_ON)))


def _trace() -> None:
    """Show where the present error was raised."""
    sys.stderr.write(visible(redact(traceback.format_exc())))


def _refuse_unbuilt(settings: Config) -> None:
    if not settings.layout.ledger.exists():
        raise InputError(f"nothing was run yet into {settings.data}; first: activity run")
