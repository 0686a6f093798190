"""What a run makes of the experiment of a release: taken back, given to all, left as it is."""

import json
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console

from operations.drift import accept, pauses_fitting, standing
from operations.experiments.records import Experiment, experiments
from operations.ledger import RUNS, Ledger
from operations.releases import promote, serving
from operations.traffic import traffic
from pipelines.experiments.reading import read
from pipelines.progress import Stages
from pipelines.releasing import to_promote
from pipelines.sharing import begin_share, may_serve_all, watch_share
from tests.operations.test_releases import make
from tests.pipelines.test_experiments import AS_OF, BEGAN, DAY, EXPERIMENT, simulated
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError

TELLS = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"


class Market:
    """A release 1 that serves, and a release 2 that half of the members have since BEGAN."""

    def __init__(self, folder: Path, release: dict[str, Any] | None = None, **planted: Any) -> None:
        self.config: Config = simulated(
            folder,
            name="release_2",
            release={"promote": "automatic", **(release or {})},
            alerts={"command": [sys.executable, "-c", TELLS, str(folder / "told")]},
            **planted,
        )
        self._told = folder / "told"
        make(self.config, 1, 2, 3)
        self.ledger = Ledger(self.config)
        with self.ledger.engine.begin() as connection:  # a snapshot is online
            row = {"command": "run", "as_of": BEGAN.isoformat(timespec="microseconds")}
            at = {"started_at": "2026-03-01", "published_at": "2026-03-01", "status": "done"}
            connection.execute(sa.insert(RUNS).values(**row, **at))
        promote(self.config, 1)
        begin_share(self.config, 2, 0.5, at=BEGAN, salt=EXPERIMENT.salt)
        self.said = ""

    def watch(self, as_of: Any = AS_OF) -> None:
        console = Console(record=True, width=200, file=StringIO())
        with connect(self.config) as con:
            watch_share(self.config, con, as_of, Stages(console, self.ledger, 1))
        self.said = " ".join(console.export_text().split())

    @property
    def experiment(self) -> Experiment:
        return experiments(self.ledger)[0]

    def told(self) -> list[dict[str, Any]]:
        if not self._told.exists():
            return []
        return [json.loads(line) for line in self._told.read_text().splitlines()]


def test_harm_is_taken_back_alerted_once_and_pauses_until_a_person_has_looked(
    tmp_path: Path,
) -> None:
    market = Market(tmp_path, rates=(0.5, 0.25))
    market.watch()
    assert (serving(market.config), traffic(market.config).shared) == (1, None)
    assert "release 2, with 50% of the members, is taken back: release 1 serves all" in market.said
    assert market.experiment.verdict
    assert market.experiment.verdict.startswith("stop for harm: positive per member is worse")
    (stop,) = standing(market.ledger)
    assert (str(stop), stop.stop) == (
        "releases: harm of release_2, positive per member", (0.0, None),
    )  # fmt: skip
    assert stop.value == pytest.approx(-0.5, abs=0.15)
    assert pauses_fitting(market.ledger, AS_OF)
    (told,) = market.told()
    assert told["todo"] == "activity drift"
    assert told["stops"][0]["part"] == "release_2, positive per member"

    # The next snapshots: it stands, nobody is told again, and nothing new serves by itself.
    for day in (1, 1, 2):
        market.watch(AS_OF + day * DAY)
        assert len(standing(market.ledger)) == len(market.told()) == 1
    stages = Stages(Console(record=True), market.ledger, 1)
    assert to_promote(market.config, stages) is None
    assert "release 3 waits: a stop stands: activity drift" in stages.console.export_text()

    accept(market.ledger, "release 2 lacked a feature; mended")
    market.watch(AS_OF + 3 * DAY)
    assert not standing(market.ledger)
    assert not pauses_fitting(market.ledger, AS_OF + 3 * DAY)
    assert to_promote(market.config, stages) == 3  # and never 2


@pytest.mark.parametrize(
    ("planted", "measure", "part"),
    [
        ({"dismiss": (0.1, 0.4)}, "harm", "release_2, negative per impression"),
        ({"seconds": (0.05, 0.08)}, "harm", "release_2, latency per list"),
        ({"lost": (0.0, 0.5)}, "void", "release_2"),
    ],
)
def test_what_else_takes_a_release_back(
    tmp_path: Path, planted: dict[str, Any], measure: str, part: str
) -> None:
    market = Market(tmp_path, **planted)
    market.watch()
    assert (serving(market.config), traffic(market.config).shared) == (1, None)
    (stop,) = standing(market.ledger)
    assert (stop.measure, stop.part) == (measure, part)
    assert len(market.told()) == 1


def test_a_better_one_serves_all_where_a_run_may_say_so(tmp_path: Path) -> None:
    market = Market(tmp_path, rates=(0.25, 0.5))
    with connect(market.config) as con:
        (note,) = read(market.config, con, market.experiment, AS_OF).notes
    assert re.match(r"\d+\.\d% of the treatment's lists were made by another release than 2", note)
    market.watch(BEGAN + 10 * DAY)
    assert may_serve_all(market.config) is None
    assert "goes on." in market.said
    market.watch()
    assert "is to serve all." in market.said
    assert may_serve_all(market.config) == 2
    assert not standing(market.ledger)
    manual = market.config.model_copy(
        update={"release": market.config.release.model_copy(update={"promote": "manual"})}
    )
    assert may_serve_all(manual) is None


def test_no_difference_leaves_what_served(tmp_path: Path) -> None:
    market = Market(tmp_path, release={"minimum_effect": 2.0})
    market.watch()
    assert "ends: release 1 serves all. no difference worth the cost" in market.said
    assert (serving(market.config), traffic(market.config).shared) == (1, None)
    assert not standing(market.ledger)
    assert not market.told()


def test_harm_that_only_warns_and_terms_that_name_nothing(tmp_path: Path) -> None:
    market = Market(tmp_path, rates=(0.5, 0.25), drift={"only_warn": ["harm"]})
    market.watch()
    assert traffic(market.config).shared is None
    assert not pauses_fitting(market.ledger, AS_OF)
    given = {"share": 0.1, "metric": "CLICK"}
    market.config = market.config.model_copy(
        update={"release": market.config.release.model_copy(update=given)}
    )
    with pytest.raises(InputError, match="expected a metric of APPLY"):
        market.watch()
