"""Fits that go on from others in a workspace: made, said, noted, killed; in full where need be."""

import json
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from models.items.saved import read_manifest as read_space
from models.lines import ranker_lines
from models.rankers.package import read_manifest
from models.rankers.saved import WEIGHTS
from operations.fits import Fits, current_lines, seen_until
from operations.incremental import Start, starts_of
from operations.rankers import made_fits, newest
from pipelines.ranking.train import train_ranker
from tests.pipelines.test_item_spaces import LAYER, TRAINED, market
from tests.worlds.workspace import DAY, END, Workspace
from transformations.config import ROOT

RANKER = (
    'WideAndDeep(version=1, aggregators=("learned_decay_v1",), reads=("ids", "member_stats"), '
    "deep=(), embedding_dim=2, epochs=1, min_count=1, labels=300, hard=1, easy=2)"
)
KILLED = """
import os, signal, sys
from io import StringIO
from pathlib import Path
from operations.ledger import Ledger
from models.lines import ranker_lines
from pipelines.progress import Stages
from pipelines.ranking import train
from rich.console import Console
from tests.worlds.workspace import END
from transformations.config import load_config

train.package = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
config = load_config(Path(sys.argv[1]))
ledger = Ledger(config)
stages = Stages(Console(file=StringIO()), ledger, ledger.start("train", END))
train.train_ranker(config, ranker_lines(config)[0], END, stages)
"""


def train(workspace: Workspace, until: datetime = END) -> None:
    (line,) = ranker_lines(workspace.config)
    workspace.do("train", lambda stages: train_ranker(workspace.config, line, until, stages))


@pytest.fixture(scope="module")
def went(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A space with its line, and a ranker that reads it: fitted, and fitted again."""
    learned = f'LearnedDecay(version=1, items="trained_v1", {LAYER})'
    workspace = market(tmp_path_factory.mktemp("went"), learned, encoders=(TRAINED,), holdback=9)
    train_settings = "train: {mode: incremental, buffer: 14d, full_every: 3}"
    workspace.setting("dim: 3", f"dim: 3\n{train_settings}")
    workspace.lines(
        learned, encoders=(TRAINED,), candidates=("Popular(version=1)",), rankers=(RANKER,)
    )
    workspace.run(END - 2 * DAY)
    workspace.backfill(*(END - back * DAY for back in range(8, 2, -1)))
    train(workspace, END - 2 * DAY)
    workspace.fit(END - 6 * DAY, items="trained_v1")
    workspace.said_of_fit = workspace.said  # type: ignore[attr-defined]
    workspace.run(END)
    workspace.backfill(*(END - back * DAY for back in range(6, 2, -1)))
    train(workspace)
    return workspace


def ranker(workspace: Workspace) -> dict[str, object]:
    (line,) = newest(workspace.config, ranker_lines(workspace.config))
    return read_manifest(workspace.config, line)


def test_a_space_its_line_and_its_ranker_go_on_as_fits_of_their_own(went: Workspace) -> None:
    config = went.config
    assert str(Fits(config).spaces["trained_v1"]) == "trained_v1_f2"
    manifest = read_space(config.in_space(Fits(config).spaces["trained_v1"]))
    assert manifest is not None
    assert (manifest["parent"], manifest["since_full"]) == ("trained_v1", 1)
    assert manifest["start"] == "incremental (1st since full)"
    said = (
        "trained_v1_f2: incremental (1st since full), from trained_v1, on what happened since "
        f"{END - 20 * DAY:%Y-%m-%d} 00:00 UTC"
    )
    assert said in went.said_of_fit  # type: ignore[attr-defined]
    of_ranker = ranker(went)
    assert (of_ranker["parent"], of_ranker["fit"]) == ("wide_and_deep_v1", 2)
    starts = starts_of(config)
    assert starts["space", "trained", 1, 2] == Start(1, 1)
    assert starts["line", "learned_decay", 1, 2] == Start(1, 1)
    assert starts["ranker", "wide_and_deep", 1, 2] == Start(1, 1)
    assert str(starts["ranker", "wide_and_deep", 1, 1]) == "full: it is the first fit"


def test_nothing_after_the_end_of_its_data_is_seen(went: Workspace) -> None:
    """As of a full fit: the space ends before the labels of its ranker begin."""
    (line,) = current_lines(went.config)
    seen = seen_until(line, went.config)
    assert seen == END - 6 * DAY
    manifest = ranker(went)
    assert manifest["trained_until"] == END.isoformat()
    assert datetime.fromisoformat(str(manifest["learns_since"])) == END - 14 * DAY
    fits = manifest["fits"]
    assert isinstance(fits, dict)
    assert fits["learned_decay_v1"]["view"] == line.view


def test_a_kill_leaves_the_last_good_one_and_the_next_one_goes_on_from_it(went: Workspace) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(went.root)], cwd=ROOT, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (line,) = ranker_lines(went.config)
    assert made_fits(went.config, line) == [1, 2]
    train(went)
    assert made_fits(went.config, line) == [1, 2, 3]
    assert (
        "wide_and_deep_v1_f3: incremental (2nd since full), from wide_and_deep_v1_f2" in went.said
    )


def test_the_third_is_full(went: Workspace) -> None:
    train(went)
    assert "wide_and_deep_v1_f4: full: every 3rd is" in went.said
    assert "parent" not in ranker(went)


def test_a_damaged_parent_makes_a_full_fit_and_is_named(went: Workspace) -> None:
    (line,) = newest(went.config, ranker_lines(went.config))
    file = line.folder(went.config) / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))
    train(went)
    said = "wide_and_deep_v1_f5: full: wide_and_deep_v1_f4 cannot be gone on from: "
    assert said in went.said
    assert "parent" not in ranker(went)


def test_a_parent_that_saw_what_came_later_makes_a_full_fit(went: Workspace) -> None:
    train(went, END - DAY)
    assert "full: wide_and_deep_v1_f5 has seen what came after" in went.said


def test_a_space_of_other_settings_begins_from_nothing_and_all_that_reads_it(
    went: Workspace,
) -> None:
    manifest = went.config.layout.item_encoder(Fits(went.config).space) / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["settings"]["trust"] = 99.0
    kept = manifest.read_text()
    manifest.write_text(json.dumps(changed))
    went.fit(END - 5 * DAY, items="trained_v1")
    manifest.write_text(kept)
    assert "trained_v1_f3: full: trained_v1_f2 cannot be gone on from: it has other" in went.said
    assert ("line", "learned_decay", 1, 3) not in starts_of(went.config)
    went.run(END)
    went.backfill(*(END - back * DAY for back in range(5, 2, -1)))
    train(went)
    assert "f7: full: wide_and_deep_v1_f6 cannot be gone on from: it reads" in went.said
    assert "member_activity_learned_decay_v1_f3, which has other coordinates" in went.said


def test_a_buffer_that_holds_too_little_makes_a_full_fit(went: Workspace) -> None:
    went.setting("buffer: 14d", "buffer: 1h")
    (line,) = ranker_lines(went.config)
    train(went, END + DAY)
    assert f"{line}_f8: full: its buffer holds too little" in went.said
