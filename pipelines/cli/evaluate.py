"""`activity evaluate` and `activity report`: is the learned aggregator better?"""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipelines.cli.options import (
    ConfigOption,
    DebugOption,
    EngineOption,
    by_engine,
    settings_of,
)
from pipelines.cli.quick_feast import import_feast
from pipelines.cli.recommended import show_recommender
from pipelines.progress import Stages, loading, short, working
from pipelines.terminal import PlainTable, Terminal, escape
from transformations.config import Config
from transformations.errors import InputError

if TYPE_CHECKING:
    from pipelines.report.result import Result

app = typer.Typer()
console = Terminal()
RESULT = "evaluation/result.json"
WHAT = ("aggregators", "recommender")
COLUMNS = ("hr10", "ndcg10", "auc_random", "auc_dismiss")


@app.command("evaluate", epilog="Example: activity evaluate --also cnn --also gru")
def evaluate_command(
    what: Annotated[
        str, typer.Argument(help="[bold]aggregators[/] or [bold]recommender[/].")
    ] = "aggregators",
    also: Annotated[
        list[str] | None,
        typer.Option(help="Name of a learned layer that is not in the catalogue; repeatable."),
    ] = None,
    freshness: Annotated[
        list[str] | None,
        typer.Option(
            help="How fresh features are: live, a gap before the label (30m, 6h), or a snapshot "
            "every n days (1d); repeatable. Choices and promises are about the first. "
            "Default: live, 30m and 1d side by side."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Rankers per variant, for the first freshness.")
    ] = 3,
    max_labels: Annotated[
        int | None,
        typer.Option(min=1, help="About that many labels per period at most; default: all."),
    ] = None,
    untuned: Annotated[
        bool,
        typer.Option(
            "--untuned",
            help="Choose nothing on the validation: every setting is its default. Half the work, "
            "for a look.",
        ),
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="A reference that takes long to fit, to be left out: ease, als or sasrec; "
            "repeatable."
        ),
    ] = None,
    predicts: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluate the lines that predict these actions; repeatable. Default: the lines "
            "without `predicts`, by every positive action."
        ),
    ] = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare the aggregators by one small ranker on a later period, and write the report.

    An evaluation that was interrupted goes on where it was. `evaluate recommender` measures both
    stages end to end instead: the candidates, in the order of each line of RANKERS.
    """
    settings = by_engine(settings_of(config), engine)
    if what not in WHAT:
        raise InputError(f"expected {' or '.join(WHAT)} to evaluate, got {what!r}")

    with loading("Feast and TensorFlow"):
        import_feast()
        from models.lines import catalogue_lines
        from operations.ledger import Ledger
        from pipelines.daily import last_midnight, stage_events
        from pipelines.evaluation.evaluate import chosen_lines, evaluate
        from pipelines.evaluation.protocol import ALL, Freshness, Protocol
        from transformations.duck import connect

    fresh = tuple(Freshness.read(each) for each in freshness or []) or ALL
    protocol = Protocol(
        freshness=fresh,
        seeds=seeds,
        max_labels=max_labels,
        predicts=tuple(predicts or ()),
        tuned=not untuned,
        without=tuple(without or ()),
    )
    lines = chosen_lines(catalogue_lines(settings), also or [], predicts or [])
    command = " ".join(
        [
            "activity evaluate",
            *[what] * (what != WHAT[0]),
            *(f"--also {name}" for name in also or []),
        ]
        + [*(f"--freshness {each}" for each in freshness or []), f"--seeds {seeds}"]
        + ([f"--max-labels {max_labels}"] if max_labels else [])
        + ["--untuned"] * untuned
        + [f"--without {name}" for name in without or []]
        + [f"--predicts {action}" for action in predicts or []]
    )
    ledger = Ledger(settings)
    with ledger.lock(), ledger.run("evaluate", None) as run_id:
        stages = Stages(console, ledger, run_id)
        with connect(settings) as con:
            now = max(last_midnight(), ledger.newest_as_of() or last_midnight())
            stage_events(settings, con, now, stages)
        if what == "recommender":
            from pipelines.evaluation.recommended import evaluate_recommender

            file = evaluate_recommender(settings, stages, protocol, command)
        else:
            evaluate(settings, stages, protocol, command, lines)
    if what == "recommender":
        show_recommender(console, json.loads(file.read_text()))
        console.print(f"\nAll figures: {escape(short(file))}", soft_wrap=True)
    else:
        _show(settings)


@app.command("report", epilog="Example: activity report")
def report_command(config: ConfigOption = None, debug: DebugOption = False) -> None:
    """Write the last evaluation as one HTML page that works offline."""
    _show(settings_of(config))


def _show(settings: Config) -> None:
    file = settings.data / RESULT
    if not file.exists():
        raise InputError(f"expected an evaluation in {file}, found none; first: activity evaluate")

    with working("writing the report"):
        from pipelines.report import write_report
        from pipelines.report.result import read_result

        evaluated = json.loads(file.read_text())
        page = write_report(evaluated, file.parent)
        result = read_result(evaluated)
    console.print()
    console.print(_table(result))
    if len(result.freshness) > 1:
        console.print(_side_by_side(result))
    for promise in result.promises:
        mark = "[green]✓[/]" if promise.passed else "[red]✗[/]"
        console.print(f"{mark} {escape(promise.sentence)}", highlight=False)
    for gap in result.gaps:
        console.print(f"[yellow]![/] {escape(gap)}", highlight=False)
    failed = [control for control in result.controls if not control.passed]
    for control in failed:
        console.print(
            "[bold red]control failed:[/] "
            + escape(f"{control.name}: expected {control.expected}, got {control.got}"),
            highlight=False,
        )
    console.print(f"\nThe report: {escape(short(page))}", soft_wrap=True)


def _table(result: "Result") -> Table:
    table = PlainTable(
        title=f"Test period, with differences to {result.baseline} (*: the interval is clear)",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("variant", min_width=20)
    labels = {metric.key: metric.label for metric in result.metrics}
    for key in COLUMNS:
        table.add_column(labels[key], justify="right", min_width=9)
    for variant in result.variants:
        cells = []
        for key in COLUMNS:
            value, change = variant.metrics.get(key), variant.difference.get(key)
            text = "" if value is None else f"{value.estimate:.4f}"
            if change is not None:
                clear = change.low > 0 or change.high < 0
                text += f" {change.estimate:+.4f}{'*' if clear else ' '}"
            cells.append(text)
        table.add_row(variant.label, *cells)
    return table


def _side_by_side(result: "Result") -> Table:
    """Return HR@10 and NDCG@10 with every freshness."""
    labels = {metric.key: metric.label for metric in result.metrics}
    table = PlainTable(title="By freshness", title_justify="left", header_style="bold")
    table.add_column("variant", min_width=20)
    for key in COLUMNS[:2]:
        for fresh in result.freshness:
            table.add_column(f"{labels[key]}, {fresh.name}", justify="right", min_width=6)
    for variant in result.variants:
        cells = [
            f"{fresh.variants[variant.name].metrics[key].estimate:.4f}"
            for key in COLUMNS[:2]
            for fresh in result.freshness
        ]
        table.add_row(variant.label, *cells)
    return table
