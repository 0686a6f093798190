"""A run that makes what is due: in order, past what fails, and on from where it was killed."""

import random
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from rich.console import Console

import pipelines.rhythm
from models.lines import ranker_lines
from models.rankers.package import read_manifest
from operations.fits import FITS, Fits
from operations.ledger import Ledger
from operations.rankers import newest
from operations.rhythm import ATTEMPTS, Plan, plan
from pipelines.rhythm import run_due
from tests.worlds.workspace import DAY, END, Workspace
from transformations.config import ROOT
from transformations.errors import RunFailedError
from transformations.layout import partition, partitions

HOUR = timedelta(hours=1)
RUN = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from operations.ledger import Ledger
from operations.rhythm import plan
from pipelines.rhythm import run_due
from rich.console import Console
from transformations.config import load_config

note = Ledger.stage
def stage(self, run_id, name, *rest):
    note(self, run_id, name, *rest)
    if name == "feast apply":
        os.kill(os.getpid(), signal.SIGKILL)
Ledger.stage = stage
config = load_config(Path(sys.argv[1]))
ledger = Ledger(config)
run_due(config, plan(config, ledger, datetime.fromisoformat(sys.argv[2])), ledger, Console())
"""


class Rhythm(Workspace):
    """A workspace with a ranker, a space that it reads and one that only lists are made from."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        drawn = random.Random(3)
        rows = [
            f"{drawn.randrange(40)},g-{drawn.randrange(90)},{('play', 'dismiss')[n % 5 == 0]},"
            f"{END - timedelta(minutes=20 * n + 1):%Y-%m-%d %H:%M:%S}"
            for n in range(1_300)
        ]
        head = "user_id,product,event_type,ts"
        (root / "source" / "events.csv").write_text("\n".join([head, *rows]) + "\n")
        words = [f"g-{n},{('red', 'blue', 'green')[n % 3]} {('fish', 'bird')[n % 2]}"
                 for n in range(90)]  # fmt: skip
        (root / "source" / "items.csv").write_text("\n".join(["product,title", *words]) + "\n")
        self.setting("fit_holdback: 3d", "fit_holdback: 3d\nrecommend: {precompute: 5}")
        self.lines(
            'GeometricDecay(version=1, decay=0.5, items="co_actions_v1")',
            encoders=["CoActions(version=1)", "Factors(version=1)"],
            candidates=["Popular(version=1)", 'Neighbours(of="factors_v1", version=1)'],
            rankers=['Linear(version=1, aggregators=("decay_v1",))'],
        )

    def plan(self, now: datetime) -> Plan:
        return plan(self.config, Ledger(self.config), now)

    def due(self, now: datetime) -> list[str]:
        return [str(part) for part in self.plan(now).due]

    def make(self, now: datetime) -> None:
        said = StringIO()
        ledger = Ledger(self.config)
        try:
            with ledger.lock():
                console = Console(file=said, width=200)
                run_due(self.config, plan(self.config, ledger, now), ledger, console)
        finally:
            self.said = said.getvalue()

    def age(self, days: int) -> None:
        """Let all fits be made that many days before the data end; rankers an hour later."""
        with Ledger(self.config).engine.begin() as connection:
            for of, at in (
                (FITS.c.kind != "ranker", END - days * DAY),
                (FITS.c.kind == "ranker", END - days * DAY + HOUR),
            ):
                text = at.isoformat(timespec="microseconds")
                connection.execute(sa.update(FITS).where(of).values(made_at=text))

    def fits(self) -> list[str]:
        spaces = map(str, Fits(self.config).spaces.values())
        return [*spaces, *map(str, newest(self.config, ranker_lines(self.config)))]

    def outcomes(self) -> dict[str, str]:
        with Ledger(self.config).engine.connect() as connection:
            rows = connection.execute(sa.select(ATTEMPTS)).mappings()
            return {row["name"]: row["outcome"] for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rhythm:
    return Rhythm(tmp_path_factory.mktemp("rhythm") / "workspace")


def test_a_first_run_has_no_ranker_yet_and_does_not_try_it_each_hour(made: Rhythm) -> None:
    at = END - 4 * DAY
    made.make(at + HOUR)
    assert made.outcomes() == {"linear_v1": "waits"}
    assert "linear_v1 is not trained: expected a snapshot that could be read" in made.said
    assert made.due(at + 2 * HOUR) == []
    assert made.due(at + DAY + HOUR) == ["snapshot", "candidates", "ranker linear_v1"]


def test_missed_snapshots_are_built_beside_the_newest_from_which_the_ranker_learns(
    made: Rhythm,
) -> None:
    at = END - DAY
    made.make(at + HOUR)
    layout = made.config.layout
    assert partitions(layout.sequences) == [END - back * DAY for back in (4, 3, 2, 1)]
    assert Ledger(made.config).published_as_ofs() == {END - 4 * DAY, at}
    assert made.fits() == ["co_actions_v1", "factors_v1", "linear_v1"]
    assert made.due(at + HOUR) == []


def test_a_part_that_fails_leaves_out_no_other_and_is_tried_again(
    made: Rhythm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails while the space of the lists is fitted: the ranker's goes on."""
    made.age(40)
    real = pipelines.rhythm.new_fit

    def broken(*arguments: object) -> object:
        if arguments[-1] == "factors_v1":
            raise OSError(5, "Input/output error")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipelines.rhythm, "new_fit", broken)
    with pytest.raises(RunFailedError, match=r"space factors_v1: OSError: \[Errno 5\]"):
        made.make(END + HOUR)
    assert made.fits() == ["co_actions_v1_f2", "factors_v1", "linear_v1_f2"]
    assert made.outcomes() == {"co_actions_v1": "done", "factors_v1": "failed", "linear_v1": "done"}
    assert made.due(END + 2 * HOUR) == ["space factors_v1", "candidates"]


def test_a_ranker_learns_inside_the_holdback_of_its_fits_from_rows_made_by_them(
    made: Rhythm,
) -> None:
    (ranker,) = newest(made.config, ranker_lines(made.config))
    notes = read_manifest(made.config, ranker)
    view = made.config.layout.embeddings("member_activity_decay_v1_f2")
    assert [one["view"] for one in notes["fits"].values()] == [view.name]
    assert notes["trained_until"] == END.isoformat()
    # Not before what the fits saw last, 3 days back; the first of them is the snapshot of then.
    assert partitions(view) == [END - back * DAY for back in (3, 2, 1, 0)]


def test_a_killed_fit_is_made_whole_by_the_next_run(made: Rhythm) -> None:
    """Killed when the new fit is noted, and neither its items nor its lists are online."""
    killed = subprocess.run(
        [sys.executable, "-c", RUN, str(made.root), (END + 2 * HOUR).isoformat()],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert made.fits() == ["co_actions_v1_f2", "factors_v1_f2", "linear_v1_f2"]
    assert made.due(END + 3 * HOUR) == ["snapshot", "candidates"]
    made.make(END + 3 * HOUR)
    assert partition(made.config.layout.lists("item_neighbours_factors_v1_f2"), END).exists()
    assert made.fits() == ["co_actions_v1_f2", "factors_v1_f2", "linear_v1_f2"]
    assert made.due(END + 4 * HOUR) == []
