"""The command line: help with examples, exit codes, no traceback unless asked."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli import app as cli
from transformations.config import CONFIG_VARIABLE, ROOT

COMMANDS = [
    ["simulate"],
    ["import", "movietweetings"],
    ["run"],
    ["backfill"],
    ["show"],
    ["status"],
    ["train"],
    ["tune"],
    ["models"],
    ["evaluate"],
    ["report"],
    ["serve"],
    ["freshness"],
    ["stream"],
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
        (["import", "movietweetings", "nowhere", "out"], "expected ratings.dat or ratings.dat.gz"),
        (["simulate"], "the configuration reads its events from data/simulated/events"),
        (["run", "--config", "nowhere.yaml"], "no configuration at nowhere.yaml"),
    ],
)
def test_a_wrong_input_ends_with_2_and_says_what_to_do(call, arguments, message):
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


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
    with pytest.raises(NotADirectoryError):
        call("run", "--as-of", "2026-01-01", "--debug")


def test_simulate_if_needed_leaves_other_data_alone(call, tmp_path):
    code, out, _ = call("simulate", "--if-needed")
    assert (code, out) == (0, "")
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
    assert call("simulate", "--if-needed", *size) == (0, "", "")
    assert sorted((tmp_path / "data" / "simulated").rglob("*")) == before


def test_make_run_works_from_another_folder():
    printed = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "run"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "activity run --config activity.yaml --as-of last --backfill 14 --tour" in printed
