"""The command line: help with examples, exit codes, no traceback unless asked."""

import ast
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
import typer
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from models.registry import Registered
from operations.ledger import Ledger
from pipelines.cli import app as cli
from pipelines.cli import models, options
from pipelines.cli.status import verdict
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.protocol import Protocol
from pipelines.workspace import Held, table_of
from tests.test_house import ROOMS, files
from tests.worlds.events import Event, write_activity
from transformations.config import CONFIG_VARIABLE, ROOT, Config, load_config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.sources import stage_items

COMMANDS = [
    ["init"],
    ["check"],
    ["reset"],
    ["rebuild"],
    ["forget"],
    ["backup"],
    ["restore"],
    ["archive", "list"],
    ["archive", "replay"],
    ["simulate"],
    ["import", "movietweetings"],
    ["run"],
    ["backfill"],
    ["show"],
    ["candidates"],
    ["recommend"],
    ["skew"],
    ["gate"],
    ["status"],
    ["export"],
    ["train"],
    ["tune"],
    ["models"],
    ["evaluate"],
    ["report"],
    ["serve"],
    ["freshness"],
    ["stream"],
    ["fit"],
    ["retire"],
    ["sweep"],
    ["drift", "accept"],
    ["release", "list"],
    ["release", "show"],
    ["release", "promote"],
    ["release", "rollback"],
    ["release", "retire"],
    ["release", "pin"],
    ["release", "unpin"],
    ["experiment", "start"],
    ["experiment", "status"],
    ["experiment", "power"],
    ["experiment", "grow"],
    ["experiment", "stop"],
    ["experiment", "list"],
    ["items", "neighbours"],
    ["items", "refresh"],
    ["items", "map"],
    ["demo", "operate"],
]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run `activity …` in this process; return (exit code, stdout, stderr)."""
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    config = tmp_path / "activity.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\nitems: {{text: [title]}}\n")

    def run(*arguments, yaml=None):
        if yaml is not None:
            config.write_text(yaml)
        monkeypatch.setattr(sys, "argv", ["activity", *arguments])
        monkeypatch.setenv(CONFIG_VARIABLE, str(config))
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        captured = capsys.readouterr()
        # rich folds long lines where the terminal ends
        return code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return run


def test_every_command_is_documented_and_has_an_example():
    group = typer.main.get_command(cli.app)
    names = []

    def walk(command, path):
        if hasattr(command, "commands"):
            for name, sub in command.commands.items():
                walk(sub, [*path, name])
        else:
            names.append(path)
            assert command.help, f"{path} has no help"
            assert f"Example: activity {' '.join(path)}" in (command.epilog or ""), path
            for option in command.params:
                if option.name != "help":
                    assert getattr(option, "help", None), f"{path}: {option.name} has no help"

    walk(group, [])
    assert sorted(names) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command):
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: activity" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "42"], "nothing was run yet into"),
        (["status"], "nothing was run yet into"),
        (["run", "--as-of", "yesterday"], "expected a date (2026-01-31) or a time"),
        (["run", "--as-of", "2999-01-01"], "lies in the future"),
        (["backfill", "--from", "2026-01-05", "--to", "2026-01-01"], "--from before --to"),
        (["backfill", "--from", "2026-01-05", "--to", "2999-01-01"], "lies in the future"),
        (["backfill", "--from", "2026-01-05", "--every", "week"], "expected a duration such as"),
        (["import", "movietweetings", "nowhere", "out"], "expected ratings.dat or ratings.dat.gz"),
        (["simulate"], "the configuration reads its events from data/simulated/events"),
        (["export", "decay", "--to", "decay.csv"], "expected a file that ends in .parquet or .npz"),
        (["export", "decay", "--to", "decay.npz"], "has no snapshot yet; first: activity run"),
        (["serve", "--host", "0.0.0.0"], "expected a token in $ACTIVITY_TOKEN, since others"),
        (["run", "--config", "nowhere.yaml"], "no configuration at nowhere.yaml"),
    ],
)
def test_a_wrong_input_ends_with_2_and_says_what_to_do(call, arguments, message):
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("place", [ROOT, ROOT / "docs"], ids=["in it", "below it"])
def test_the_repository_is_named_as_any_workspace(place, monkeypatch, capsys):
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    monkeypatch.chdir(place)
    assert options.settings_of(None).root == ROOT
    assert capsys.readouterr().err == f"workspace {ROOT}\n"


def test_a_wrong_option_ends_with_2(call):
    code, _, err = call("run", "--as-off", "2026-01-01")
    assert code == 2
    assert "--as-of" in err


def test_an_unknown_key_names_its_path(call):
    code, _, err = call("status", yaml="items: {text: [title]}\nevents: {colums: {}}\n")
    assert code == 2
    assert "events.colums: unknown key; expected one of: source, table" in err


def test_an_unexpected_error_ends_with_1_and_debug_shows_it(call, tmp_path):
    (tmp_path / "data").write_text("a file where a folder belongs")
    code, _, err = call("run", "--as-of", "2026-01-01")
    assert code == 1
    assert "NotADirectoryError" in err
    assert "--debug" in err
    assert "Traceback" not in err
    code, _, err = call("run", "--as-of", "2026-01-01", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_simulate_if_needed_leaves_other_data_alone(call, tmp_path):
    where = f"workspace {tmp_path}/activity.yaml"
    assert call("simulate", "--if-needed") == (0, "", where)
    assert not (tmp_path / "data" / "simulated").exists()


def test_simulate_writes_once(call, tmp_path):
    yaml = (
        f"data_dir: {tmp_path}/data\nevents: {{source: {tmp_path}/data/simulated/events}}\n"
        f"items: {{source: {tmp_path}/data/simulated/items.parquet, text: [title]}}\n"
    )
    size = ("--members", "50", "--jobs", "60", "--days", "5")
    code, out, _ = call("simulate", *size, yaml=yaml)
    assert code == 0
    assert "50 members, 60 items" in out
    before = sorted((tmp_path / "data" / "simulated").rglob("*"))
    assert call("simulate", "--if-needed", *size)[:2] == (0, "")
    assert sorted((tmp_path / "data" / "simulated").rglob("*")) == before


HEAVY = ("feast", "tensorflow", "mlflow", "matplotlib", "pandas", "sqlalchemy", "duckdb")
LOADED = f"""
import json, os, sys
from pipelines.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], []),
        (["run", "--help"], []),
        (["run", "--as-off", "2026-01-31"], []),
        (["models"], []),
        (["status"], ["duckdb", "sqlalchemy"]),
        (["show", "7"], ["duckdb", "feast", "pandas", "sqlalchemy"]),
    ],
    ids=" ".join,
)
def test_a_command_loads_what_it_needs(arguments, loaded, tmp_path):
    """What a command imports is what its user waits for."""
    config = tmp_path / "activity.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\nitems: {{text: [title]}}\n")
    Ledger(load_config(config))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        cwd=ROOT,
        env=os.environ | {CONFIG_VARIABLE: str(config)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(json.loads(done.stderr.splitlines()[-1])) == loaded


def test_feast_is_imported_without_type_checks_and_typeguard_stays_as_it_was():
    code = (
        "import typeguard; before = typeguard.typechecked\n"
        "from pipelines.cli.quick_feast import import_feast\n"
        "import_feast()\n"
        "assert typeguard.typechecked is before\n"
        "from feast import Entity\n"
        "print(Entity(name='member', join_keys=['member_id']).name)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "member\n"


def run_row(**changes):
    return {
        "run_id": 1,
        "command": "run",
        "status": "done",
        "started_at": "2026-03-02T00:10:00+00:00",
        "published_at": None,
        "error": None,
        "stages": [],
        "as_of": None,
    } | changes


@pytest.mark.parametrize(
    ("runs", "published", "staged", "sentence"),
    [
        ([], None, [], "Nothing is online yet. First: activity run"),
        ([run_row()], 1, [], "All is well. Online: the snapshot of 2026-03-01 00:00 UTC."),
        ([run_row(status="failed")], 1, [], "The last run failed (2026-03-02T00:10 UTC)"),
        ([run_row(status="running")], 1, [], "The last run was killed (2026-03-02T00:10 UTC)"),
        ([run_row()], 9, [10], "All is well. Online: the snapshot of 2026-02-21 00:00 UTC, 9 days"),
        ([run_row()], 9, [1], "The snapshot is 9 days old. Online: the snapshot of 2026-02-21"),
    ],
)
def test_status_says_first_whether_all_is_well(tmp_path, runs, published, staged, sentence):
    config = Config.model_validate({"data_dir": str(tmp_path), "items": {"text": ["title"]}})
    now = datetime(2026, 3, 2, 1, tzinfo=UTC)
    midnight = now.replace(hour=0)
    ledger = Ledger(config)
    if published is not None:
        run_id = ledger.start("run", midnight - timedelta(days=published))
        ledger.published(run_id, now)
        ledger.finish(run_id)
    for days in staged:
        write_activity(config, [Event(1, 1, "APPLY", midnight - timedelta(days=days))])
    said = Text.from_markup(verdict(config, ledger, runs, now)).plain
    assert said.startswith(sentence)


AT = datetime(2026, 1, 31, 6, 30, tzinfo=UTC)


def in_80_columns(table):
    text = StringIO()
    Console(file=text, width=80).print(table)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text.getvalue()
    return lines


def test_status_shows_whole_dates_and_counts_beside_a_long_name():
    view = "member_activity_learned_decay_by_category_v12_f3"
    shown = in_80_columns(table_of([Held(view, 1_000, 100_116_521, AT, AT)]))
    (row,) = (line for line in shown if "100,116,521" in line)
    assert row.split()[1:] == ["1,000", "100,116,521", *["2026-01-31", "06:30"] * 2]


def test_models_shows_whole_numbers_beside_a_long_name():
    name = "attention_pool_by_category"
    metrics = {"val_loss": 1.7703, "recall_at_10": 0.05612, "epochs": 12.0}
    known = Registered(name, 1234, f"member_activity_{name}_v12_f3", f"{AT}", "abcdef1234", metrics)
    shown = in_80_columns(models.table_of([known]))
    (row,) = (line for line in shown if "1234" in line)
    assert row.split()[1:] == ["1234", "v12_f3", "2026-01-31", "abcdef12", "val_loss", "1.77"]
    assert [line.split()[-2:] for line in shown if "recall" in line] == [
        ["recall_at_10", "0.05612"]
    ]


def test_make_run_works_from_another_folder():
    printed = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "run"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "activity run --config activity.yaml --as-of last --backfill 14 --tour" in printed


def every_command() -> dict[str, typer.core.TyperCommand]:
    found = {}

    def walk(command, path):
        for name, sub in getattr(command, "commands", {}).items():
            found[" ".join([*path, name])] = sub
            walk(sub, [*path, name])

    walk(typer.main.get_command(cli.app), [])
    return found


# Options of other programs that our code calls or tells of, and a colour of a style sheet.
OTHERS = {"--port", "--bind", "--save", "--good"}
OTHERS |= {"--host", "--webui-port", "--cores", "--memory", "--work-dir"}  # of Spark


def test_every_command_and_option_that_a_text_names_is_there():
    """A message that names a way on which does not exist is a dead end."""
    commands = every_command()
    options = {option for command in commands.values() for p in command.params for option in p.opts}
    options |= {"--help", "--debug"} | OTHERS
    wrong = []
    for room in ROOMS:
        for file in files(room):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                said = " ".join(node.value.split())
                named = re.findall(r"(?:^|[`:(>] ?|\$ )activity ([a-z]+)\b", said)
                wrong += [f"{file.name}: activity {name}" for name in named if name not in commands]
                if room != "benchmarks":
                    named = re.findall(r"(?:^|[\s`(\[])(--[a-z][a-z-]+)", said)
                    wrong += [f"{file.name}: {name}" for name in named if name not in options]
    assert wrong == []


# They speak of the file that `activity init` will write, and of one that is not there.
SPEAK_OF_NO_WORKSPACE = {"pipelines/init/database.py", "pipelines/init/settings.py"}
SPEAK_OF_NO_WORKSPACE |= {"transformations/config.py"}


def test_a_message_names_the_file_that_was_read():
    """`--config` may have named another workspace than the repository, or another file's name."""
    naming = set()
    for file in (file for room in ROOMS for file in files(room)):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and id(node) not in docstrings:
                said = str(node.value)
                if said != "activity.yaml" and re.search(
                    r"activity\.yaml|models/catalog\.py", said
                ):
                    naming.add(file.relative_to(ROOT).as_posix())
    assert naming <= SPEAK_OF_NO_WORKSPACE


def test_a_message_of_a_workspace_elsewhere_names_its_files(tmp_path):
    (tmp_path / "activity.yaml").write_text("items: {source: items.csv, text: [title]}\n")
    (tmp_path / "feature_store.yaml").touch()
    (tmp_path / "catalog.py").write_text("AGGREGATORS = ()\n")
    (tmp_path / "items.csv").write_text("item_id,title\nx,Cook\n")
    config = load_config(tmp_path)
    with pytest.raises(InputError, match=f"learned aggregator in {tmp_path}/catalog.py to"):
        evaluate(config, None, Protocol(), "")
    with (
        connect(config) as con,
        pytest.raises(RunFailedError, match=f"and `dim` in {tmp_path}/activity.yaml$"),
    ):
        stage_items(config, con, AT)
