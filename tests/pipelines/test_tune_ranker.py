"""Better settings for rankers: judged on blocks of time that nothing fitted has seen."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.evaluation.metrics import ndcg_in_groups
from models.lines import ranker_lines
from models.rankers.lines import BoostedTrees, Linear, WideAndDeep
from models.rankers.spec import Ranker
from pipelines.cli import app as cli
from pipelines.ranking.blocks import BLOCKS, blocks_of
from pipelines.ranking.train import VALIDATION, Examples, border_of
from pipelines.ranking.tune import SPACE, rows_of, suggest, tune_ranker
from tests.models.rankers.worlds import GROUP, HEADS
from tests.models.rankers.worlds import market as pairs
from tests.pipelines.test_candidates import CANDIDATES, DECAY, ENCODERS, KEPT_SMALL
from tests.pipelines.test_item_spaces import market
from tests.pipelines.test_ranking import RANKERS
from tests.worlds.workspace import AVERAGE, DAY, END, Workspace
from transformations.errors import InputError, RunFailedError, TooFewError


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("tuning"), AVERAGE, holdback=5)
    workspace.lines(
        *(AVERAGE, DECAY, KEPT_SMALL), encoders=ENCODERS, candidates=CANDIDATES, rankers=RANKERS
    )
    workspace.run(END)
    workspace.backfill(*(END - back * DAY for back in range(5, 0, -1)))
    return workspace


def told(folder: Path) -> list[dict[str, str]]:
    with (folder / "tuning" / "ranker_boosted_trees.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_is_kept_and_goes_on(served: Workspace) -> None:
    config = served.config
    (line,) = (each for each in ranker_lines(config) if each.name == "boosted_trees")
    found: list[Ranker] = []

    def work(trials: int) -> None:
        served.do(
            "tune", lambda stages: found.append(tune_ranker(config, line, END, stages, trials))
        )

    work(2)
    first = told(config.data)
    assert len(first) == 1 + 2
    assert {row["state"] for row in first} >= {"as it is"}
    work(3)
    rows = told(config.data)
    assert [row for row in rows if row["trial"] in ("", "0", "1")] == first  # not tried again
    assert len(rows) == 1 + 3
    values = [float(row["ndcg10"]) for row in rows if row["state"] != "pruned"]
    assert values == sorted(values, reverse=True)
    assert all(0 < value <= 1 for value in values)
    best = found[-1]
    if rows[0]["state"] == "as it is":
        assert best == line
        assert "No trial was better than boosted_trees_v1 as it is" in served.said
    else:
        assert best.version == 2
        assert isinstance(best, BoostedTrees)
        assert str(best.leaves) == rows[0]["leaves"]
        assert f"trees={best.trees}, leaves={best.leaves}, " in served.said
    for ending in ("md", "png"):
        assert (config.layout.tuning / f"ranker_boosted_trees.{ending}").stat().st_size
    with pytest.raises(InputError, match="expected a sampler among tpe"):
        served.do("tune", lambda stages: tune_ranker(config, line, END, stages, 1, "grid"))


def test_the_command_tunes_and_adds_the_best(served: Workspace) -> None:
    text = (served.root / "catalog.py").read_text()
    begin = text.index("RANKERS = (")
    lines = "".join(f"    {line},\n" for line in RANKERS).replace("400)", "400, l2=1e9)", 1)
    text = f"{text[:begin]}RANKERS: tuple[Ranker, ...] = (\n{lines})\n"
    (served.root / "catalog.py").write_text(f"from models.rankers.spec import Ranker\n{text}")
    runner, where = CliRunner(), ["--config", str(served.root)]
    asked = ["tune", "ranker", "linear", "--trials", "2", "--sampler", "random", "--apply"]
    done = runner.invoke(cli.app, [*asked, *where])
    assert done.exit_code == 0, done.output
    assert "added to" in done.output
    assert "The first line of RANKERS that is trained serves" in done.output
    lines = [str(line) for line in ranker_lines(served.config)]
    assert lines == ["linear_v1", "boosted_trees_v1", "linear_v2"]
    tuned = ranker_lines(served.config)[-1]
    assert isinstance(tuned, Linear)
    assert (tuned.labels, tuned.l2 < 30) == (400, True)
    wrong = runner.invoke(cli.app, ["tune", "ranker", "deep", *where])
    assert isinstance(wrong.exception, InputError)
    assert "linear_v1" in str(wrong.exception)
    two = runner.invoke(cli.app, ["tune", "decay", "linear", *where])
    assert "expected one name, or ranker and a name" in str(two.exception)


def examples_of(groups: int, times: list[int] | None = None) -> Examples:
    at = np.array(times if times is not None else range(groups), np.int64)
    border = border_of(at, 1 - VALIDATION)
    every = pairs(groups=groups)
    train = every.take(np.flatnonzero(every.groups < border))
    rest = every.take(np.flatnonzero(every.groups >= border))
    rest = type(rest)(**{**vars(rest), "groups": rest.groups - border})
    return Examples("", None, at, at, train, rest)  # type: ignore[arg-type]


@given(
    st.lists(st.integers(0, 30), min_size=40, max_size=40)
    .map(sorted)
    .filter(lambda times: len(set(times)) > 15)
)
def test_each_block_judges_what_is_fitted_before_it(times: list[int]) -> None:
    examples = examples_of(40, times)
    blocks = blocks_of(examples, HEADS)
    assert len(blocks) == BLOCKS
    judged: list[int] = []
    for block in blocks:
        parts = [np.unique(part.groups).tolist() for part in (block.train, block.validation)]
        own = np.unique(block.judges.groups).tolist()
        # All that came before, and nothing of its own moment or later.
        assert [*parts[0], *parts[1]] == [*range(own[0])]
        assert times[own[0] - 1] < times[own[0]]
        if parts[1]:
            assert times[parts[0][-1]] < times[parts[1][0]]
        judged += own
    assert judged == [*range(judged[0], 40)]
    # A block's pairs are those that were there.
    whole = pairs(groups=40)
    first = blocks[0].judges
    rows = np.flatnonzero(np.isin(whole.groups, first.groups))
    assert len(first) == GROUP * len(np.unique(first.groups))
    for name in whole.inputs.names("numbers"):
        assert np.array_equal(first.inputs.number(name), whole.inputs.number(name)[rows], True)
    assert np.array_equal(first.targets, whole.targets[rows])


def test_too_few_labels_are_said() -> None:
    with pytest.raises(TooFewError, match="in each of 3 blocks"):
        blocks_of(examples_of(8, [1] * 8), HEADS)


@pytest.mark.parametrize(
    "line",
    [
        Linear(version=3, labels=9),
        BoostedTrees(version=3, labels=9),
        WideAndDeep(version=3, labels=9),
        WideAndDeep(name="mf", version=3, reads=("ids",), deep=()),
    ],
    ids=str,
)
def test_only_what_a_kind_searches_is_drawn(line: Ranker) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn: list[Any] = []
    for _ in range(20):
        trial = study.ask()
        new = suggest(trial, line)
        again = suggest(optuna.trial.FixedTrial(trial.params), line)
        assert new == again
        changed = {name for name, value in vars(new).items() if value != getattr(line, name)}
        assert changed <= {*SPACE[type(line)]}
        drawn.append(new)
    assert len({*drawn}) > 5
    if isinstance(line, WideAndDeep) and not line.deep:
        assert {new.deep for new in drawn} == {()}
    rows = rows_of(line, 0.5, [])
    assert rows == [{"trial": "", "state": "as it is", "ndcg10": 0.5, "blocks": BLOCKS}]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from([-1.0, 0.0, 1.0, 2.0])),
        max_size=40,
    ),
    st.integers(1, 5),
)
def test_ndcg_of_groups_is_that_of_each_alone(rows: list[tuple[int, int, float]], k: int) -> None:
    groups = np.array([group for group, _, _ in rows], np.int64)
    scores = np.array([score for _, score, _ in rows], np.float32)
    gains = np.array([gain for _, _, gain in rows])
    expected = []
    for group in np.unique(groups):
        own, worth = scores[groups == group], np.maximum(gains[groups == group], 0)
        ranks = [1 + (own > one).sum() + ((own == one).sum() - 1) / 2 for one in own]

        def dcg(ranks: Any, worth: Any) -> float:
            return sum(w / np.log2(1 + r) for r, w in zip(ranks, worth, strict=True) if r <= k)

        ideal = dcg(range(1, len(worth) + 1), sorted(worth, reverse=True))
        if ideal and len(own) > 1:
            expected.append(dcg(ranks, worth) / ideal)
    assert ndcg_in_groups(scores, gains, groups, k) == pytest.approx(np.array(expected))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(RunFailedError, match="got NaN in 1 of 2"):
        ndcg_in_groups(np.array([np.nan, 1.0]), np.ones(2), np.zeros(2, np.int64), 10)
