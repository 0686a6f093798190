"""`activity experiment`: two ways to serve, compared: how long it takes, what it says, its end."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipelines.cli.options import ConfigOption, DebugOption, settings_of
from pipelines.progress import number, plain_table, working
from pipelines.terminal import Terminal, escape
from transformations.config import Config
from transformations.errors import InputError
from transformations.timestamps import read_timestamp

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from operations.experiments.intervals import Effect
    from operations.experiments.metrics import Metric
    from operations.experiments.power import Plan, Weeks
    from operations.experiments.records import Experiment
    from operations.ledger import Ledger
    from pipelines.experiments.reading import Reading

app = typer.Typer()
experiment = typer.Typer(no_args_is_help=True, help="Two ways to serve, compared on members.")
app.add_typer(experiment, name="experiment")
console = Terminal()

NameArgument = Annotated[str, typer.Argument(help="The experiment's name.")]
MetricOption = Annotated[
    str,
    typer.Option(
        help="What is to get better: an action or a number attribute, as APPLY, 'APPLY per "
        "impression', 'HIRE within 30d'."
    ),
]
ShareOption = Annotated[
    float, typer.Option(help="Share of members in the treatment; as many are in the control.")
]
EffectOption = Annotated[
    float, typer.Option(help="The change that is worth the cost, of the control's: 0.05 is 5%.")
]


@experiment.command(
    "start", epilog="Example: activity experiment start new_ranker --metric APPLY --share 0.1"
)
def start_command(
    name: NameArgument,
    metric: MetricOption,
    share: ShareOption = 0.5,
    effect: EffectOption = 0.05,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            help="What may not get worse: 'negative per impression <= 10%', 'SAVE >= -5%', "
            "'coverage >= -20%'. Default: dismissals, impressions, latency, empty lists, coverage."
        ),
    ] = None,
    weeks: Annotated[int, typer.Option(help="Whole weeks that it takes at least.")] = 2,
    members: Annotated[
        int | None,
        typer.Option(
            help="Members at which the interval is narrowest; default: what the weeks bring, and "
            "no more than power says."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="When it began, of one that runs already (UTC).")
    ] = None,
    salt: Annotated[
        str | None, typer.Option(help="Its salt, of one that runs already; default: drawn.")
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Start an experiment: from now on members have an arm of it."""
    settings = settings_of(config)
    begins = read_timestamp(since) if since else None

    from operations.experiments.metrics import Metric
    from operations.experiments.records import start
    from pipelines.experiments.reading import default_guardrails, read_guardrail

    ledger = _ledger(settings)
    measured = Metric.read(metric, settings)
    guards = (
        [read_guardrail(text, settings) for text in guardrail]
        if guardrail
        else default_guardrails(settings)
    )
    if members is None:
        members = _planned(settings, ledger, measured, effect, share, weeks)
    made = start(
        ledger,
        name,
        str(measured),
        share,
        effect,
        guards,
        weeks,
        members,
        at=begins,
        salt=salt,
    )
    both = share + min(share, 1 - share)
    console.print(
        f"[green]✓[/] experiment {escape(name)} began: {escape(made.metric)}, {share:.0%} of "
        f"members in the treatment, {both - share:.0%} in the control; salt {escape(made.salt)}",
        highlight=False,
        soft_wrap=True,
    )
    for one in made.guardrails:
        console.print(f"  guardrail: {escape(str(one))}", highlight=False, soft_wrap=True)
    console.print(f"What it says: activity experiment status {escape(name)}", highlight=False)


@experiment.command("status", epilog="Example: activity experiment status new_ranker --by country")
def status_command(
    name: NameArgument,
    also: Annotated[
        list[str] | None, typer.Option(help="One more metric to show; it decides nothing.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Show the metric by this category of members' profiles.")
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show what an experiment says by now; the exit code is 1 where it harms, or is void."""
    settings = settings_of(config)

    from operations.experiments.records import experiment as experiment_of
    from pipelines.experiments.reading import cohorts, measure
    from transformations.duck import connect

    ledger = _ledger(settings)
    one = experiment_of(ledger, name)
    with connect(settings) as con:
        reading = _read(settings, con, ledger, one)
        more = {text: measure(settings, con, reading, text) for text in also or []}
        of_cohorts = cohorts(settings, con, reading, by) if by else []
    _show(reading)
    console.print(_effects({**reading.effects, **more}))
    if of_cohorts:
        table = _head(f"{one.metric} by {by}", "value", "members")
        for cohort in of_cohorts:
            table.add_row(cohort.value, number(cohort.members), *_cells(cohort.effect))
        console.print(table)
    for note in reading.notes:
        console.print(f"[yellow]• {escape(note)}[/]", highlight=False, soft_wrap=True)
    bad = reading.verdict.kind in ("void", "stop for harm")
    color = "bold red" if bad else "bold"
    console.print(
        f"[{color}]{reading.verdict.kind}:[/] {escape(reading.verdict.why)}",
        highlight=False,
        soft_wrap=True,
    )
    if bad and one.is_running:
        raise typer.Exit(1)


@experiment.command("power", epilog="Example: activity experiment power --metric APPLY")
def power_command(
    metric: MetricOption,
    share: ShareOption = 0.5,
    effect: EffectOption = 0.05,
    power: Annotated[
        float, typer.Option(help="The probability with which such a change is found.")
    ] = 0.8,
    members_a_day: Annotated[
        int | None, typer.Option(help="New members a day, of which the data do not tell.")
    ] = None,
    baseline: Annotated[
        float | None, typer.Option(help="The metric now, a share: 0.03 of them act.")
    ] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Say how many weeks an experiment takes, from what the last weeks were like."""
    settings = settings_of(config)

    from operations.experiments.intervals import ALPHA, shared
    from operations.experiments.metrics import Metric
    from operations.experiments.power import Weeks, plan
    from pipelines.experiments.reading import default_guardrails

    if not (0 < share < 1 and effect > 0 and 0 < power < 1):
        raise InputError(
            "expected --share and --power between 0 and 1 and --effect above 0, got "
            f"{share:g}, {power:g} and {effect:g}"
        )
    measured = Metric.read(metric, settings)
    if (members_a_day is None) != (baseline is None):
        raise InputError("expected --members-a-day and --baseline together, got one of them")
    if members_a_day is not None and baseline is not None:
        if not (0 < baseline < 1 and members_a_day > 0):
            raise InputError(
                f"expected a share as --baseline and members, got {baseline:g} and {members_a_day}"
            )
        history = [Weeks(1, 7 * members_a_day, baseline, baseline * (1 - baseline))]
    else:
        history = _history(settings, _ledger(settings), measured)
    alpha, _ = shared(ALPHA, len(default_guardrails(settings)) - 1)
    _say_plan(str(measured), plan(history, effect, share, power, alpha), history, effect, power)


@experiment.command("grow", epilog="Example: activity experiment grow new_ranker --share 0.5")
def grow_command(
    name: NameArgument,
    share: Annotated[float, typer.Option(help="The treatment's larger share, at most 0.5.")],
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Give both arms more members; nobody who is in one changes it."""
    settings = settings_of(config)

    from operations.experiments.records import grow

    made = grow(_ledger(settings), name, share)
    console.print(f"[green]✓[/] {made.share:.0%} of members are in the treatment", highlight=False)


@experiment.command(
    "stop", epilog='Example: activity experiment stop new_ranker --why "it is better"'
)
def stop_command(
    name: NameArgument,
    why: Annotated[str, typer.Option(help="Why it ends; kept in the ledger.")],
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """End an experiment; what it said is kept."""
    settings = settings_of(config)

    from operations.experiments.records import running, stop
    from transformations.duck import connect

    ledger = _ledger(settings)
    one, verdict = running(ledger, name), None
    if _newest(ledger) > one.started_at:
        with connect(settings) as con:
            verdict = _read(settings, con, ledger, one).verdict
    ended = stop(ledger, name, verdict, why)
    console.print(
        f"[green]✓[/] experiment {escape(name)} ended; it said: "
        f"{escape(ended.verdict or 'nothing, since no day of it was staged')}",
        highlight=False,
        soft_wrap=True,
    )


@experiment.command("list", epilog="Example: activity experiment list")
def list_command(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """List all experiments, the newest first."""
    settings = settings_of(config)

    from operations.experiments.records import experiments

    there = experiments(_ledger(settings))
    if not there:
        console.print("No experiment was started yet; first: activity experiment power")
        return
    table = plain_table("Experiments")
    for title in ("name", "share", "metric", "began", "ended", "said", "why"):
        table.add_column(title, overflow="fold")
    for one in there:
        ended = f"{one.ended_at:%Y-%m-%d}" if one.ended_at else "runs"
        began = f"{one.started_at:%Y-%m-%d}"
        said = (one.verdict or "").partition(":")[0]
        row = (one.name, f"{one.share:.0%}", one.metric, began, ended, said, one.why or "")
        table.add_row(*row)
    console.print(table)


def _ledger(settings: Config) -> "Ledger":
    import operations.experiments.records  # noqa: F401 - its table is made with the ledger's
    from operations.ledger import Ledger, ledger_exists

    if not ledger_exists(settings):
        raise InputError(f"nothing was run yet into {settings.data}; first: activity run")
    return Ledger(settings)


def _newest(ledger: "Ledger") -> datetime:
    """Return until when what members did is staged."""
    return ledger.newest_published() or ledger.newest_as_of() or datetime.min.replace(tzinfo=UTC)


def _read(settings: Config, con: "Connection", ledger: "Ledger", one: "Experiment") -> "Reading":
    from pipelines.experiments.reading import read

    until = _newest(ledger)
    if until <= one.started_at:
        raise InputError(
            f"the experiment {one.name} began on {one.started_at:%Y-%m-%d %H:%M} UTC, and what "
            f"members did is staged until {until:%Y-%m-%d %H:%M}; first: activity run"
        )
    return read(settings, con, one, until)


def _history(settings: Config, ledger: "Ledger", metric: "Metric") -> "list[Weeks]":
    from pipelines.experiments.history import weeks_before
    from transformations.duck import connect

    with working("reading the weeks before"), connect(settings) as con:
        return weeks_before(settings, con, metric, _newest(ledger))


def _planned(
    settings: Config, ledger: "Ledger", metric: "Metric", effect: float, share: float, weeks: int
) -> int:
    """Return for how many members its intervals are made, by the weeks before."""
    from pipelines.experiments.history import planned_members
    from transformations.duck import connect

    with working("reading the weeks before"), connect(settings) as con:
        return planned_members(settings, con, metric, effect, share, weeks, _newest(ledger))


def _say_plan(metric: str, plan: "Plan", history: "list[Weeks]", by: float, power: float) -> None:
    last = history[-1]
    console.print(
        f"{metric} is {plan.rate:.4g} now; {number(last.members)} members came in "
        f"{last.weeks} {'week' if last.weeks == 1 else 'weeks'}.",
        highlight=False,
        soft_wrap=True,
    )
    if not plan.members:
        console.print("No member has it, so no experiment can tell anything by it.")
        return
    least = (
        f"{plan.weeks} whole {'week' if plan.weeks == 1 else 'weeks'}"
        if plan.weeks
        else "no time that anybody waits"
    )
    console.print(
        f"A change of {by:.1%} is found with probability {power:.0%} by {number(plan.members)} "
        f"members in both arms: [bold]{least}[/]. That is at the end; looked at every day, it is "
        f"mostly found before. A single look at the end would need {number(plan.once)}.",
        highlight=False,
        soft_wrap=True,
    )


def _show(reading: "Reading") -> None:
    one = reading.experiment
    control, treatment = reading.members
    console.print(
        f"Experiment {escape(one.name)}, day {int(reading.days)}, as of {reading.until:%Y-%m-%d} "
        f"UTC: {number(treatment)} members in the treatment, {number(control)} in the control "
        f"(sample ratio p = {reading.p_ratio:.2g}).",
        highlight=False,
        soft_wrap=True,
    )


def _head(title: str, *first: str) -> Table:
    table = plain_table(title)
    for name in (*first, "control", "treatment", "change", "low", "high"):
        table.add_column(name, overflow="fold")
    return table


def _effects(effects: "dict[str, Effect]") -> Table:
    table = _head("Effects, with intervals that hold at every look", "metric")
    for name, found in effects.items():
        table.add_row(name, *_cells(found))
    return table


def _cells(found: "Effect") -> list[str]:
    from operations.experiments.verdict import percent

    shares = (found.lift, found.low, found.high)
    return [
        f"{found.control:.4g}",
        f"{found.treatment:.4g}",
        *("" if share is None else percent(share) for share in shares),
    ]
