"""The ledger: what ran, what was killed, what is online, and one writer at a time."""

import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from operations.ledger import Ledger
from transformations.config import ROOT, Config
from transformations.errors import InputError

ONE = datetime(2026, 1, 1, tzinfo=UTC)
TWO = datetime(2026, 1, 2, tzinfo=UTC)
THREE = datetime(2026, 1, 3, 6, 30, tzinfo=UTC)

HOLDER = """
import signal, sys
from operations.ledger import Ledger
from transformations.config import Config
settings = {"data_dir": sys.argv[1], "items": {"text": ["title"]}}
ledger = Ledger(Config.model_validate(settings))
with ledger.lock(), ledger.run("run", None):
    print("holding", flush=True)
    signal.pause()
"""


@pytest.fixture
def config(tmp_path):
    return Config.model_validate({"data_dir": str(tmp_path / "data"), "items": {"text": ["title"]}})


def test_a_run_with_its_stages(config):
    ledger = Ledger(config)
    with ledger.run("run", ONE) as run_id:
        ledger.stage(run_id, "stg_activity", 10, 8, {"unknown action": 2}, 0.5)
        ledger.stage(run_id, "items", None, 3, {}, 0.1)
    (run,) = Ledger(config).last_runs()
    assert (run["command"], run["status"], run["error"]) == ("run", "done", None)
    assert [(s["stage"], s["rows_in"], s["rows_out"], s["refused"]) for s in run["stages"]] == [
        ("stg_activity", 10, 8, {"unknown action": 2}),
        ("items", None, 3, {}),
    ]


def test_a_failed_run_keeps_its_error_and_raises_it(config):
    ledger = Ledger(config)
    with pytest.raises(ValueError, match="broken"), ledger.run("run", ONE):
        raise ValueError("broken")
    (run,) = ledger.last_runs()
    assert (run["status"], run["error"]) == ("failed", "ValueError: broken")


def test_what_a_damaged_file_holds_is_no_escape_sequence_in_the_ledger(config):
    ledger = Ledger(config)
    with pytest.raises(ValueError, match="line"), ledger.run("run", ONE):
        raise ValueError("line \x1b[31m\0\u202e password=secret-word " + "x" * 5_000)
    (run,) = ledger.last_runs()
    assert run["error"].startswith("ValueError: line ␛[31m␀\\u202e password=*** xxx")
    assert (len(run["error"]), run["error"][-1]) == (2_001, "…")


def test_only_published_runs_are_online(config):
    ledger = Ledger(config)
    assert ledger.newest_published() is None
    with ledger.run("run", ONE) as run_id:
        ledger.published(run_id, TWO)
    with ledger.run("run", None) as run_id:
        ledger.resolve(run_id, TWO)
        ledger.published(run_id, THREE)
    with ledger.run("backfill", THREE):
        pass
    assert ledger.newest_published() == TWO
    assert ledger.newest_published(before=TWO) == ONE
    assert ledger.newest_published(before=ONE) is None
    assert ledger.published_as_ofs() == {ONE, TWO}
    assert ledger.newest_as_of() == THREE


def test_a_killed_run_frees_the_lock_and_is_called_killed(config):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, config.data_dir], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == b"holding\n"
        ledger = Ledger(config)
        with pytest.raises(InputError, match=rf"another run \(process {holder.pid}\)"):
            ledger.lock().__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with ledger.lock(), ledger.run("run", TWO):
        pass
    assert [run["status"] for run in ledger.last_runs()] == ["done", "killed"]
