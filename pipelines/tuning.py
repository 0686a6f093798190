"""Tuning as a stage: a study, its table and plot as files, and on request a catalogue line."""

import ast
import csv
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection as Connection
from rich.console import Console
from rich.table import Table

from models.lines import catalogue_lines
from models.rankers.spec import Ranker
from models.spec import Aggregator, GeometricDecay, Learned
from models.training.fitting import Step
from models.training.recipe import Recipe
from models.training.tune import Study, Trial, tune
from models.training.tune_decay import GRID, LEAST_GAIN, DecayStudy, tune_decay
from pipelines.progress import Stage, Stages, short
from pipelines.terminal import PlainTable, escape
from pipelines.training import figures_of, line_of, repr_of
from transformations.config import Config
from transformations.errors import InputError
from transformations.example_settings import ExampleSettings
from transformations.files import replacing

Rows = list[dict[str, Any]]
TOP = 10
COLUMNS = 4


def tune_line(
    config: Config,
    con: Connection,
    aggregator: Aggregator,
    until: datetime,
    stages: Stages,
    trials: int,
    sampler: str,
    apply: bool,
) -> Aggregator:
    """Search better settings of a line; return it with the best ones, as a new version.

    Writes `<name>.csv`, `<name>.md` and `<name>.png` into the folder `tuning` of the data.

    Raises:
        InputError: the line has nothing to tune, or there is no data to tune it on.
    """
    folder = config.layout.tuning
    remark = ""
    with stages.stage(f"tune {aggregator.name}", unit="settings") as stage:
        if isinstance(aggregator, GeometricDecay):
            stage.total = len(GRID) * (1 + len(config.actions))
            decays = tune_decay(config, con, until, progress=lambda: stage.advance(1))
            best: Aggregator = replace(
                aggregator, version=_free_version(config, aggregator.name), decay=decays.best
            )
            rows, plot = decay_rows(decays), _plot_decay(decays)
            remark = why_common(decays)
        elif isinstance(aggregator, Learned):
            stage.total, stage.unit = trials, "trials"
            study = tune(
                aggregator, config, con, until, trials, sampler, lambda n, s: _show(stage, n, s)
            )
            best = replace(study.best, version=_free_version(config, aggregator.name))
            rows, plot = learned_rows(study), plot_trials(study.metric, study.trials)
        else:
            raise InputError(f"{aggregator.name} has nothing to tune")
        stage.rows_out, stage.note = len(rows), f"settings tried, before {until:%Y-%m-%d %H:%M} UTC"
    show_study(stages.console, folder / aggregator.name, rows, plot)
    if remark:
        stages.console.print(remark, soft_wrap=True)
    say(stages.console, config.catalogue, best, apply)
    return best


def show_study(console: Console, stem: Path, rows: Rows, plot: Callable[[Path], None]) -> None:
    """Write a study's table as CSV and Markdown, and its plot; print the best rows.

    Args:
        stem: The files, without their endings.
        rows: The best first; the same keys in each.
    """
    written = _write(stem, rows, plot)
    console.print(_table(rows))
    console.print("written: " + ", ".join(short(file) for file in written), soft_wrap=True)


def why_common(study: DecayStudy) -> str:
    """Say why the best line is not the best row: an r per action gains too little."""
    if not isinstance(study.best, float) or decay_rows(study)[0]["decay"] == study.best:
        return ""
    return f"One r for all actions is kept: one per action gains less than {LEAST_GAIN} auc_random."


def decay_rows(study: DecayStudy) -> Rows:
    """Return one row per setting of the grid, the best first."""
    scored = {s.decay: s for row in (study.common, *study.single.values()) for s in row}
    return [
        {
            "decay": s.decay[0] if len(set(s.decay)) == 1 else " ".join(map(str, s.decay)),
            "auc_random": round(s.auc_random, 5),
            "auc_negative": round(s.auc_negative, 5),
        }
        for s in sorted(scored.values(), key=lambda s: -s.auc_random)
    ]


def learned_rows(study: Study) -> Rows:
    """Return one row per training, the best first."""
    names = sorted({name for trial in study.trials for name in trial.settings})
    order = sorted(study.trials, key=lambda t: (t.state != "complete", -(t.value or 0.0)))
    return [
        {"trial": t.number, "state": t.state, study.metric: t.value, "epochs": t.epochs}
        | {name: t.settings.get(name) for name in names}
        for t in order
    ]


def add_line(file: Path, line: Aggregator | Ranker) -> None:
    """Write a line into the catalogue's file, after the others.

    A recipe gets its own name above the catalogue, so the line stays one line.

    Raises:
        InputError: the file has no AGGREGATORS (of a ranker: RANKERS) as a tuple of calls.
    """
    name, module = "AGGREGATORS", "models.spec"
    if isinstance(line, Ranker):
        name, module = "RANKERS", type(line).__module__
    text = file.read_text()
    tree = ast.parse(text)
    assignments = [
        (node, node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.value, ast.Tuple)
        and ast.unparse(node.target) == name
    ]
    if not assignments:
        raise InputError(f"expected {name}: tuple[…] = (…) in {file}, found none")
    ((node, entries),) = assignments
    lines = text.splitlines(keepends=True)
    recipe, call = _named_recipe(line)
    lines.insert(entries.elts[-1].end_lineno or 0, f"    {call},\n")
    lines.insert(node.lineno - 1, recipe)
    wanted = {module: {type(line).__name__}, **_imports(recipe)}
    with replacing(file) as temporary:
        temporary.write_text(_imported("".join(lines), wanted))


def _named_recipe(line: Aggregator | Ranker) -> tuple[str, str]:
    if not isinstance(line, Learned) or line.recipe == Recipe():
        return "", line_of(line)
    name = f"{line.name}_{line.version}".upper()
    written = line_of(line)
    recipe = line_of(line.recipe)
    arguments = [
        f"    {f.name}={_argument(getattr(line.recipe, f.name))},\n"
        for f in fields(line.recipe)
        if f"{f.name}=" in recipe and getattr(line.recipe, f.name) != getattr(Recipe(), f.name)
    ]
    return f"{name} = Recipe(\n{''.join(arguments)})\n", written.replace(recipe, name)


def _argument(value: Any) -> str:
    return line_of(value) if isinstance(value, ExampleSettings) else repr_of(value)


def _imports(recipe: str) -> dict[str, set[str]]:
    """Return module → names that a recipe's text uses."""
    importable = {
        "datetime": "timedelta",
        "models.training.recipe": "Recipe",
        "transformations.example_settings": "ExampleSettings",
    }
    return {module: {name} for module, name in importable.items() if f"{name}(" in recipe}


def _imported(text: str, wanted: dict[str, set[str]]) -> str:
    """Return the text with these names imported, one line per module."""
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    imports = {n.module: n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
    missing = []
    for module, names in wanted.items():
        node = imports.get(module)
        if node is None:
            missing.append(f"from {module} import {', '.join(sorted(names))}\n")
            continue
        if any(alias.name == "*" for alias in node.names):
            continue
        all_names = sorted({alias.name for alias in node.names} | names)
        lines[node.lineno - 1] = f"from {module} import {', '.join(all_names)}\n"
        for number in range(node.lineno, node.end_lineno or node.lineno):
            lines[number] = ""
    at = min(node.lineno for node in imports.values()) - 1
    return "".join([*lines[:at], *sorted(missing), *lines[at:]])


def _free_version(config: Config, name: str) -> int:
    return max((a.version for a in catalogue_lines(config) if a.name == name), default=0) + 1


def say(console: Console, file: Path, best: Aggregator | Ranker, apply: bool) -> None:
    """Print the best line; with `apply`, add it to the catalogue."""
    if apply:
        add_line(file, best)
        console.print(f"[green]✓[/] added to {escape(short(file))}:", soft_wrap=True)
    else:
        console.print(f"the best, as a line for {escape(short(file))} (--apply adds it):")
    console.print(f"    {line_of(best)},", highlight=False, markup=False, soft_wrap=True)


def _write(stem: Path, rows: Rows, plot: Callable[[Path], None]) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_suffix(ending) for ending in (".csv", ".md", ".png")]
    with replacing(files[0]) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    with replacing(files[1]) as temporary:
        temporary.write_text("".join(f"| {' | '.join(map(str, row))} |\n" for row in cells))
    with replacing(files[2]) as temporary:
        plot(temporary)
    return files


def _table(rows: Rows) -> Table:
    """Show the best rows; what does not fit beside the first columns shares one more."""
    first = list(rows[0])[:COLUMNS]
    table = PlainTable(title=f"The best of {len(rows)}", title_justify="left", header_style="bold")
    for name in first:
        table.add_column(name, no_wrap=True)
    if len(rows[0]) > len(first):
        table.add_column("settings")
    for row in rows[:TOP]:
        text = {name: f"{v:.5g}" if isinstance(v, float) else str(v) for name, v in row.items()}
        rest = ", ".join(f"{name} {text[name]}" for name in row if name not in first)
        table.add_row(*(text[name] for name in first), *([rest] if rest else []))
    return table


def _show(stage: Stage, number: int, step: Step) -> None:
    stage.update(number, doing=f"trial {number}, epoch {step.epoch}, {figures_of(step)}")


def _plot_decay(study: DecayStudy) -> Callable[[Path], None]:
    def plot(file: Path) -> None:
        figure, (left, right) = _figure(2)
        for axes, name in ((left, "auc_random"), (right, "auc_negative")):
            grid = [s.decay[0] for s in study.common]
            axes.plot(grid, [getattr(s, name) for s in study.common], "k-o", label="all alike")
            for number, (action, row) in enumerate(study.single.items()):
                values = [getattr(s, name) for s in row]
                axes.plot([s.decay[number] for s in row], values, "-", label=f"{action} alone")
            axes.set_xlabel("r")
        left.set_ylabel("AUC on validation")
        left.set_title("positive against random of the day")
        right.set_title("positive against negative")
        left.legend()
        figure.savefig(file, format="png", dpi=120)

    return plot


def plot_trials(metric: str, trials: Sequence[Trial]) -> Callable[[Path], None]:
    """Return what draws the trials of a study, with the best so far."""

    def plot(file: Path) -> None:
        figure, (axes,) = _figure(1)
        for state, marker in (("complete", "o"), ("pruned", "x")):
            some = [t for t in trials if t.state == state and t.value is not None]
            axes.plot([t.number for t in some], [t.value for t in some], marker, label=state)
        axes.plot([t.number for t in trials], _best_so_far(trials), "k-", label="best so far")
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{metric} on validation")
        axes.legend()
        figure.savefig(file, format="png", dpi=120)

    return plot


def _best_so_far(trials: Sequence[Trial]) -> list[float]:
    best, seen = float("nan"), []
    for trial in trials:
        if trial.state == "complete" and trial.value is not None:
            best = trial.value if best != best else max(best, trial.value)
        seen.append(best)
    return seen


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    # Not pyplot, which needs a display and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * panels, 4), layout="constrained")
    return figure, [figure.add_subplot(1, panels, n + 1) for n in range(panels)]
