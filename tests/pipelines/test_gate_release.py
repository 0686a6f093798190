"""The gates of a release: what is right passes, what is planted is refused and says by how much."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from models.evaluation.bootstrap import Interval
from models.lines import ranker_lines
from operations.composition import fits_of
from operations.releases import note_gates, promote, releases, serving
from pipelines.cli import gate as gate_command
from pipelines.gates import quality, release
from pipelines.gates.quality import Compared, said
from pipelines.gates.verdict import Verdict, noted
from pipelines.ranking.labels import Labels
from pipelines.ranking.train import train_ranker, train_rankers
from pipelines.releasing import release_what_is_published
from tests.pipelines.test_impressions import Row, write_shown
from tests.pipelines.test_precomputed import ready
from tests.worlds.workspace import DAY, END, Workspace
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError


def compared(value: float, before: float, members: tuple[float, float], items: float) -> Compared:
    change = value - before
    low, high = members
    return Compared(
        200, value, before, Interval(change, low, high), Interval(change, items - 0.1, items)
    )


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (compared(0.12, 0.10, (0.01, 0.03), 0.05), True),
        (compared(0.10, 0.10, (0.0, 0.0), 0.0), True),
        (compared(0.09, 0.10, (-0.03, 0.01), 0.02), True),  # not told from chance
        (compared(0.09, 0.10, (-0.02, -0.001), 0.02), False),  # over members
        (compared(0.09, 0.10, (-0.02, 0.001), -0.001), False),  # over items
        (compared(0.06, 0.10, (-0.20, 0.10), 0.10), False),  # by far, whatever chance says
        (compared(0.0, 0.0, (0.0, 0.0), 0.0), True),
    ],
)
def test_a_worse_ranking_is_refused(found: Compared, passed: bool) -> None:
    verdict = said(found)
    assert verdict.passed is passed
    assert f"NDCG@10 {found.value:.4f}, serving {found.before:.4f}" in verdict.said


BETTER = compared(0.12, 0.10, (0.01, 0.03), 0.15)
WORSE = compared(0.09, 0.10, (-0.02, -0.001), 0.02)
LEVEL = compared(0.10, 0.10, (-0.01, 0.01), 0.02)
NOT_SURE = compared(0.12, 0.10, (0.01, 0.03), 0.05)  # better over members, not over items


@pytest.mark.parametrize(
    ("found", "weighted", "passed"),
    [
        (LEVEL, LEVEL, True),
        (LEVEL, BETTER, True),
        (LEVEL, WORSE, False),
        (NOT_SURE, WORSE, False),
        (WORSE, LEVEL, False),
        (WORSE, NOT_SURE, False),
        (WORSE, WORSE, False),
        (WORSE, BETTER, None),
        (BETTER, WORSE, None),
        (compared(0.06, 0.10, (-0.20, 0.10), 0.10), BETTER, None),  # by far
        (BETTER, BETTER, True),
    ],
)
def test_what_chance_let_be_shown_may_refuse_and_a_contradiction_waits(
    found: Compared, weighted: Compared, passed: bool | None
) -> None:
    verdict = said(found, weighted, 70.0)
    assert verdict.passed is passed
    assert verdict.waits is (passed is None)
    assert ("contradict" in verdict.said) is (passed is None)
    assert verdict.said.startswith(f"{found}; of what chance let be shown, by 1 / propensity: ")
    assert f"{weighted}, worth 70 of equal weight" in verdict.said


def test_too_few_that_chance_let_be_shown_do_not_decide() -> None:
    text = "by 1 / propensity: labels, worth 3 of equal weight, expected 50"
    for found, passed in ((LEVEL, True), (WORSE, False)):
        verdict = said(found, None, 3.2)
        assert (verdict.passed, verdict.waits) == (passed, False)
        assert verdict.said.endswith(text)
    assert said(LEVEL).said == str(LEVEL)


def test_what_could_not_be_judged_refuses_nothing_and_is_noted() -> None:
    unknown, good = Verdict("quality", None, "no label"), Verdict("future", True, "9 labels")
    wrong = Verdict("latency", False, "p99 3 s")
    assert noted([unknown, good])["passed"] is True
    found = noted([unknown, good, wrong])
    assert (found["passed"], found["why"]) == (False, "latency: p99 3 s")
    assert [each["gate"] for each in found["gates"]] == ["quality", "future", "latency"]


@pytest.mark.parametrize("at_once", [1, 2, 200])
def test_the_rank_of_a_label_is_among_what_the_sources_brought(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Seen items are left out, ties share their ranks, an item that nothing brings has none."""
    monkeypatch.setattr(quality, "AT_ONCE", at_once)
    labels = Labels(
        members=np.array([1, 2, 3]),
        items=np.array([10, 20, 99]),
        actions=np.array(["A"] * 3),
        signs=np.ones(3, np.int32),
        times=np.arange(3),
    )
    lists = {
        "one": [np.array([10, 11, 12]), np.array([21, 20]), np.array([30])],
        "two": [np.array([12, 13]), np.array([22]), np.array([31])],
    }
    acted = SimpleNamespace(  # member 1 acted on 13, and member 2 on its label's item before
        items=np.array([[13], [20], [0]]), there=np.array([[True], [True], [False]])
    )
    scores = {10: 0.5, 11: 0.9, 12: 0.1, 13: 9.0, 20: 0.4, 21: 0.4, 22: 0.7, 30: 1.0, 31: 1.0}

    class Known:
        def read(self, _: Labels) -> None:
            return None

        def members(self, *_: Any) -> Any:
            return SimpleNamespace(actions=acted)

        def candidates(self, *_: Any) -> Any:
            return lists

        def labelled(self, _: Labels, __: Any, pairs: Any, *___: Any) -> Any:
            return SimpleNamespace(inputs=[scores[item] for item in pairs.items.tolist()])

    fitted = SimpleNamespace(scores=lambda inputs: np.array(inputs, np.float32))
    ranker: Any = SimpleNamespace(fitted=fitted, heads={})
    known: Any = Known()
    con: Any = None
    ranks = quality._ranks(known, con, labels, ranker)
    assert ranks.tolist() == [2.0, 2.5, np.inf]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two releases of the same settings; the first serves."""
    workspace = ready(tmp_path_factory.mktemp("gates"))
    workspace.run(END)
    workspace.backfill(*(END - back * DAY for back in range(5, 0, -1)))

    def work(stages: Any) -> None:
        train_rankers(workspace.config, END, stages)
        release_what_is_published(workspace.config, stages)
        (line,) = ranker_lines(workspace.config)
        train_ranker(workspace.config, line, END, stages)
        workspace.setting("promote: automatic", "promote: manual")
        release_what_is_published(workspace.config, stages)

    workspace.do("rankers", work)
    assert [one.number for one in releases(workspace.config)] == [2, 1]
    assert serving(workspace.config) == 1
    return workspace


def judge(workspace: Workspace, number: int) -> dict[str, Verdict]:
    found: list[Verdict] = []
    workspace.do(
        "gate", lambda stages: found.extend(release.judge(workspace.config, number, stages))
    )
    return {verdict.gate: verdict for verdict in found}


def judge_quality(workspace: Workspace) -> Verdict:
    config = workspace.config
    return release._quality(config, workspace.store, fits_of(config, 2), fits_of(config, 1))


def test_a_release_like_the_one_that_serves_passes(
    served: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "FEWEST", 5)
    verdicts = judge(served, 2)
    assert [*verdicts] == ["future", "parity", "request", "bytes", "latency", "quality"]
    assert {gate: each.passed for gate, each in verdicts.items()} == dict.fromkeys(verdicts, True)
    assert "+0.0000 [+0.0000, +0.0000] over members" in verdicts["quality"].said
    gates = releases(served.config)[0].gates
    assert gates is not None
    assert gates["passed"] is True
    assert len(gates["gates"]) == 6


@pytest.mark.parametrize("slow_looks", [0, 1, 2])
def test_who_is_late_twice_is_refused(
    served: Workspace, monkeypatch: pytest.MonkeyPatch, slow_looks: int
) -> None:
    looks: list[int] = []
    answer_of = release.Recommender.of

    class Pool(ThreadPoolExecutor):
        def __enter__(self) -> Self:
            looks.append(1)
            return super().__enter__()

    def late(recommender: Any, request: Any, since: float | None = None) -> Any:
        answer = answer_of(recommender, request, since)
        return replace(answer, path="popular") if len(looks) <= slow_looks else answer

    monkeypatch.setattr(release, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(release.Recommender, "of", late)
    config = served.config
    verdict = release._latency(config, served.store, fits_of(config, 2), END)
    assert (verdict.passed, len(looks)) == (slow_looks < 2, min(slow_looks + 1, 2))


def test_vectors_that_a_request_makes_otherwise_are_refused(
    served: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = release.RequestTime.embed

    def other(self: Any, *given: Any, **named: Any) -> Any:
        made = embed(self, *given, **named)
        vectors = made.vectors["member_activity_decay_v1"]
        for field in vectors:
            vectors[field] = vectors[field] + 0.01
        return made

    monkeypatch.setattr(release.RequestTime, "embed", other)
    config = served.config
    lines = fits_of(config, 2).made(release.catalogue_lines(config))
    verdict = release._request(config, served.store, lines, END)
    assert verdict.passed is False
    assert "member_activity_decay_v1 differs by 0.01" in verdict.said


def test_without_labels_that_nobody_learned_from_quality_is_not_judged(served: Workspace) -> None:
    verdict = judge_quality(served)
    assert (verdict.passed, verdict.waits) == (None, True)
    assert "positive labels since 2026-03-0" in verdict.said


def test_a_gated_release_serves_once_the_gates_let_it(
    served: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = {
        "wrong": Verdict("latency", False, "p99 3 s"),
        "early": Verdict("quality", None, "3 labels", waits=True),
        "worse": Verdict("quality", False, "NDCG@10 .1"),
        "good": Verdict("quality", True, "level"),
    }
    served.setting("promote: manual", "promote: gated")
    # Whatever a test before this one found.
    note_gates(served.config, 2, noted([verdicts["early"]]))
    ledger_of, judgements = list[str](), list[str]()
    for which, serves in (("wrong", 1), ("early", 1), ("worse", 1), ("good", 1)):

        def judge(config: Any, number: int, _: Any, which: str = which) -> list[Verdict]:
            judgements.append(which)
            note_gates(config, number, noted([verdicts[which]]))
            return [verdicts[which]]

        monkeypatch.setattr(release, "judge", judge)
        served.do("run", lambda stages: release_what_is_published(served.config, stages))
        ledger_of.append(served.said)
        assert serving(served.config) == serves
    assert "release 2 is refused: latency: p99 3 s" in ledger_of[0]
    assert "release 2 waits: quality: 3 labels" in ledger_of[1]
    assert "release 2 is refused: quality: NDCG@10 .1" in ledger_of[2]
    assert "activity gate --release 2" in ledger_of[3]
    assert judgements == ["wrong", "early", "worse"]  # no second look at what ranks worse
    note_gates(served.config, 2, noted([verdicts["good"]]))  # somebody had it judged again
    served.do("run", lambda stages: release_what_is_published(served.config, stages))
    assert serving(served.config) == 2


def test_a_ranker_turned_upside_down_is_refused_and_may_not_serve(
    served: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "FEWEST", 5)
    right = quality.ranker_of

    def turned(config: Any, fits: Any) -> Any:
        found = right(config, fits)
        if fits.release != 2 or found is None:
            return found
        upside_down = SimpleNamespace(scores=lambda inputs: -found.fitted.scores(inputs))
        return replace(found, fitted=upside_down)

    monkeypatch.setattr(quality, "ranker_of", turned)
    verdict = judge_quality(served)
    assert verdict.passed is False
    note_gates(served.config, 2, noted([verdict]))
    with pytest.raises(InputError, match=r"release 2 may not serve: quality: NDCG@10 "):
        promote(served.config, 2)
    note_gates(served.config, 2, noted([replace(verdict, passed=True)]))  # mended
    promote(served.config, 2)


def test_what_chance_let_be_shown_is_judged_beside_the_labels(
    served: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done in the newest days, as if all of it had been shown at that moment."""
    monkeypatch.setattr(quality, "FEWEST", 5)
    config = served.config
    fits = fits_of(config, 1)
    ranker = quality.ranker_of(config, fits)
    assert ranker is not None
    with connect(config) as con:
        labels = quality.read_labels(config, con, quality.seen_before(ranker), END + DAY, 2_000)
    liked = labels.take(np.flatnonzero(labels.signs > 0))
    rows = [
        Row(f"{number}", member, item, shown_at, 0, 0.01)
        for number, (member, item, shown_at) in enumerate(
            zip(liked.members, liked.items, liked.timestamps, strict=True)
        )
    ]
    assert " propensity" not in judge_quality(served).said
    write_shown(config, rows)
    verdict = judge_quality(served)
    figures = verdict.said.split("; of what chance let be shown, by 1 / propensity: ")
    same = f"[+0.0000, +0.0000] over items, on {len(rows)} labels"
    assert [same in figure for figure in figures] == [True, True]
    assert verdict.said.endswith(f"worth {len(rows)} of equal weight")


def test_a_retired_release_is_not_judged(served: Workspace) -> None:
    with pytest.raises(InputError, match="expected the number of a release"):
        judge(served, 9)


def test_the_command_prints_its_verdicts(
    served: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = [
        Verdict("future", True, "[green]9[/] labels"),
        Verdict("parity", None, "nothing"),
        Verdict("latency", False, "p99 3 s"),
    ]
    monkeypatch.setattr(release, "judge", lambda *_: verdicts)
    with pytest.raises(RunFailedError, match="release 2 may not serve: latency"):
        gate_command._of_release(served.config, 2)
    rows = [[*filter(None, line.split("  "))] for line in capsys.readouterr().out.splitlines()]
    told = {row[0].strip(): [cell.strip() for cell in row[1:3]] for row in rows if len(row) > 2}
    assert told["future"] == ["passed", "[green]9[/] labels"]
    assert told["parity"] == ["not judged", "nothing"]
    assert told["latency"] == ["refused", "p99 3 s"]
