"""The recommender: what it answers, from what, and what it does when things fail or are late."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from operations.experiments.assignment import arms_of
from operations.experiments.records import Experiment
from operations.traffic import Traffic
from serving.recommend.asked import Answer, Request
from serving.recommend.cache import Kept
from serving.recommend.parts import Parts
from serving.recommend.recommend import Recommender
from serving.recommend.scored import Scored, fused
from serving.request.sequences import Event
from tests.worlds.recommend import (
    NEAR,
    NOW,
    OVER,
    POPULAR,
    SEARCHED,
    StandInScorer,
    StandInSources,
    config_of,
    found,
    member_of,
    parts_of,
    write_catalogue,
)
from transformations.errors import InputError

LATE = 3.0
"""Seconds: a deadline that 100 answers one after another can wait for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    write_catalogue(config_of(folder))
    return folder


@pytest.fixture
def sources() -> StandInSources:
    member = member_of((5, "SAVE", 20), (4, "DISMISS", 3), (1, "APPLY", 2))
    return StandInSources({42: member})


def opened(
    folder: Path, sources: StandInSources, settings: Any = None, **parts: Any
) -> Recommender:
    config = config_of(folder, settings)
    return Recommender(config, parts_of(config, sources, **parts))


def ids(answer: Answer) -> list[Any]:
    return [item.item_id for item in answer.items]


def event(item: int, action: str = "APPLY", seconds: int = 60, member: Any = 42) -> Event:
    return Event(member, item, action, NOW - timedelta(seconds=seconds))


def test_reciprocal_rank_fusion() -> None:
    scored = fused([found(NEAR, (2, 3)), found(POPULAR, (7, 2))], extra=(5,))
    assert scored.items.tolist() == [2, 3, 7, 5]
    expected = [1 / 61 + 1 / 62, 1 / 62, 1 / 61, 0]
    assert scored.scores.tolist() == pytest.approx(expected)
    assert scored.sources == [
        {"near_v1": 0, "popular_v1": 1},
        {"near_v1": 1},
        {"popular_v1": 0},
        {},
    ]
    assert scored.ranker == "votes"
    assert fused([]).items.tolist() == []


def test_the_ranker_orders_and_an_answer_says_what_made_it(
    folder: Path, sources: StandInSources
) -> None:
    scorer = StandInScorer()
    with opened(folder, sources, scorer=scorer) as recommender:
        answer = recommender.of(Request("42", 3))
        again = recommender.of(Request(42, 3))
    assert ids(answer) == [7, 5, 4]
    assert (answer.path, answer.ranker, answer.member_known) == ("ranked", "stand_in_v1_f2", True)
    assert answer.fits == {
        "near_v1": "item_neighbours_near_v1",
        "ranker": "stand_in_v1_f2",
        "reasons": "tfidf_svd_v1",
    }
    first, second, third = answer.items
    assert (first.title, first.score, first.propensity) == ("title of 7", pytest.approx(0.7), 1.0)
    assert first.probabilities == {"APPLY": pytest.approx(0.7)}
    assert first.sources == {"popular_v1": 0}
    # 7 lies between 1, applied for, and 5, saved; 4 was dismissed, so it explains nothing.
    assert second.reason is not None
    assert (second.reason.item_id, second.reason.action) == (1, "APPLY")
    assert third.reason is not None
    assert (third.reason.item_id, third.reason.title) == (5, "title of 5")
    assert (again.path, again.items) == ("cached", answer.items)
    assert again.request_id != answer.request_id
    assert len(scorer.calls) == 1


def test_what_was_liked_and_then_dismissed_is_no_reason(
    folder: Path, sources: StandInSources
) -> None:
    sources.members[42] = member_of((1, "APPLY", 9), (4, "SAVE", 5), (1, "DISMISS", 2))
    with opened(folder, sources) as recommender:
        reasons = {item.reason for item in recommender.of(Request(42)).items if item.reason}
    assert {reason.item_id for reason in reasons} == {4}


def test_without_a_ranker_the_votes_order(folder: Path, sources: StandInSources) -> None:
    with opened(folder, sources) as recommender:
        answer = recommender.of(Request(42, 3))
        assert recommender.of(Request(42, 3, by="popular")).path == "popular"
    assert (answer.path, answer.ranker) == ("votes", "votes")
    assert ids(answer) == [2, 7, 3]  # 2 stands in both lists; 7 and 4 are the first of one


def test_who_nobody_knows_gets_what_is_popular(folder: Path, sources: StandInSources) -> None:
    with opened(folder, sources) as recommender:
        answer = recommender.of(Request(99, 4))
    assert not answer.member_known
    assert ids(answer) == [7, 4, 1, 2]  # what is over is left out
    assert {item.reason for item in answer.items} == {None}


def test_without_any_source_the_newest_items_serve(folder: Path) -> None:
    sources = StandInSources(popular_items=(), near=())
    with opened(folder, sources) as recommender:
        answer = recommender.of(Request(99, 20))
    assert answer.path == "popular"
    assert ids(answer) == [1, 2, 3, 4, 5, 6, 7]


def test_a_request_may_leave_out_and_bring_its_own(folder: Path, sources: StandInSources) -> None:
    with opened(folder, sources, scorer=StandInScorer()) as recommender:
        assert ids(recommender.of(Request(42, 3, leave_out=["7", 5]))) == [4, 3, 2]
        own = recommender.of(Request(42, candidates=[6, 3, OVER]))
        assert ids(own) == [6, 3]
        assert [item.sources for item in own.items] == [{}, {"near_v1": 1}]
        answer = recommender.of(Request(42, candidates=[6, 3], by="popular"))
        assert (ids(answer), answer.path) == ([6, 3], "popular")


def test_what_was_acted_on_stays_out_also_what_no_store_has_seen(
    folder: Path, sources: StandInSources
) -> None:
    settings = {"rules": {"leave_out_acted": "7d"}}
    scorer = StandInScorer()
    with opened(folder, sources, settings, scorer=scorer) as recommender:
        assert ids(recommender.of(Request(42))) == [7, 5, 3, 2]
        answer = recommender.of(Request(42, events=[event(7), event(2, "DISMISS", 30)]))
        assert ids(answer) == [5, 3]
        assert [given.item_id for given in scorer.calls[-1]["events"]] == [7, 2]
    only = {"rules": {"leave_out_acted": "7d", "leave_out_actions": ["DISMISS"]}}
    with opened(folder, sources, only, scorer=scorer) as recommender:
        assert ids(recommender.of(Request(42))) == [7, 5, 3, 2, 1]


def test_an_event_makes_a_member_known_to_the_sources(
    folder: Path, sources: StandInSources
) -> None:
    with opened(folder, sources) as recommender:
        assert {*ids(recommender.of(Request(99)))} == {7, 4, 1, 2, 5}
        answer = recommender.of(Request(99, events=[event(1, member="99")]))
    assert 3 in ids(answer)
    (reason,) = (item.reason for item in answer.items if item.item_id == 3)
    assert reason is not None
    assert reason.item_id == 1


def test_an_event_that_the_store_has_counts_once_and_one_of_later_not(
    folder: Path, sources: StandInSources
) -> None:
    sources.members[42] = replace(
        member_of((1, "APPLY", 0)), times=[(NOW - timedelta(seconds=60)).replace(microsecond=0)]
    )
    seen: list[Any] = []
    real = sources.of
    sources.of = lambda member, known=None: seen.append(known) or real(member, known)  # type: ignore
    with opened(folder, sources) as recommender:
        later = event(4, seconds=-86_400)  # NOW is when the file was imported
        recommender.of(Request(42, events=[event(1), event(5, "SAVE", 90), later]))
    assert seen[0].items == [5, 1]
    assert seen[0].signs.tolist() == [1, 1]


def test_the_rules_of_the_configuration_hold(folder: Path, sources: StandInSources) -> None:
    rules = {"caps": {"kind": 1}, "pinned": [{"item": 6, "position": 1}], "diversity": 0.1}
    with opened(folder, sources, {"rules": rules}, scorer=StandInScorer()) as recommender:
        answer = recommender.of(Request(42))
    assert ids(answer) == [6, 7, 4]
    assert [item.by for item in answer.items] == ["pin", "score", "score"]
    assert answer.items[0].score is None
    # One that does not exist is not shown.
    gone = {"pinned": [{"item": 77, "position": 1}]}
    with opened(folder, sources, {"rules": gone}) as recommender:
        assert 77 not in ids(recommender.of(Request(42)))


def test_exploration_is_in_the_answer_and_is_kept_with_it(
    folder: Path, sources: StandInSources
) -> None:
    config = config_of(folder, {"rules": {"explore": 0.5}})
    parts = parts_of(config, sources, scorer=StandInScorer())
    with Recommender(config, parts, rng=lambda: np.random.default_rng(3)) as recommender:
        answer, again = (recommender.of(Request(42, 5)) for _ in range(2))
    assert {item.by for item in answer.items} == {"score", "explore"}
    for place, item in enumerate(answer.items):
        left = 6 - place - 1  # of seven candidates one is over
        assert item.propensity in (
            pytest.approx(0.5 / (left + 1)),
            pytest.approx(0.5 + 0.5 / (left + 1)),
        )
    assert again.items == answer.items


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("x"), "member_id: expected int64 ids, got 'x'"),
        (Request(1, 0), "n: expected 1 to 1,000 items, got 0"),
        (Request(1, 1001), "n: expected 1 to 1,000 items"),
        (
            Request(1, context={"page": "x"}),
            "expected keys among surface, shift",
        ),
        (Request(1, context={"shift": "3"}), "context.shift: expected a finite number, got '3'"),
        (Request(1, context={"shift": True}), "context.shift: expected a finite number"),
        (Request(1, context={"surface": 3}), "context.surface: expected a text of at most"),
        (Request(1, candidates=[3, 77]), "candidates: expected items of the catalogue, got 77"),
        (Request(1, leave_out=["x"]), "item_id: expected int64 ids"),
        (Request(1, events=[event(1)]), "expected events of the member 1, got one of 42"),
        (Request(42, events=[event(1, "LIKE")]), "expected actions among APPLY, SAVE, DISMISS"),
        (Request(42, events=[event(1, seconds=2**31)]), "is before events.earliest"),
    ],
)
def test_a_wrong_request_is_told(
    folder: Path, sources: StandInSources, request_: Request, message: str
) -> None:
    settings = {"context": {"surface": "category", "shift": "number"}}
    with opened(folder, sources, settings) as recommender, pytest.raises(InputError, match=message):
        recommender.of(request_)


def test_a_new_row_of_the_member_is_another_question(folder: Path, sources: StandInSources) -> None:
    scorer = StandInScorer()
    with opened(folder, sources, scorer=scorer) as recommender:
        paths = [recommender.of(Request(42)).path for _ in range(2)]
        before = sources.members[42]
        assert before.row_at is not None
        sources.members[42] = replace(before, row_at=before.row_at + timedelta(seconds=1))
        paths.append(recommender.of(Request(42)).path)
        paths.append(recommender.of(Request(42, 7)).path)
        recommender._kept.clear()
        paths.append(recommender.of(Request(42, 7)).path)
    assert paths == ["ranked", "cached", "ranked", "ranked", "ranked"]


class Blocked(StandInScorer):
    """Waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def of(self, *given: Any, **more: Any) -> Scored:
        self.go.wait()
        return super().of(*given, **more)


class Made:
    """A list that was made before, of one member."""

    def of(self, member: Any) -> Scored | None:
        return fused([found(NEAR, (3, OVER, 6))]) if member == 42 else None


def test_a_ranker_that_stands_still_is_not_waited_for(
    folder: Path, sources: StandInSources
) -> None:
    """100 answers of 100 within the deadline, 20 at a time, with both threads held."""
    scorer = Blocked()
    deadline = {"deadline": f"{int(1000 * LATE)}ms"}
    with opened(folder, sources, deadline, scorer=scorer, lists=Made()) as recommender:

        def ask(number: int) -> tuple[Answer, float]:
            began = time.monotonic()
            return recommender.of(Request(42 if number % 2 else 43)), time.monotonic() - began

        try:
            with ThreadPoolExecutor(20) as pool:
                answers = [*pool.map(ask, range(100))]
        finally:
            scorer.go.set()
    assert max(seconds for _, seconds in answers) < LATE
    for number, (answer, _) in enumerate(answers):
        if number % 2:
            assert (answer.path, ids(answer)) == ("precomputed", [3, 6])
        else:
            assert (answer.path, ids(answer)) == ("popular", [7, 4, 1, 2, 5])
    failures = recommender.metrics.failures.labels("late")._value.get()
    assert failures == 100


def test_a_ranker_that_raises_leaves_it_to_the_votes(folder: Path, sources: StandInSources) -> None:
    class Broken(StandInScorer):
        def of(self, *given: Any, **more: Any) -> Scored:  # noqa: ARG002
            raise RuntimeError("no such file")

    with opened(folder, sources, scorer=Broken(), lists=Made()) as recommender:
        answers = [recommender.of(Request(42, 3)) for _ in range(2)]
        failures = recommender.metrics.failures.labels("ranker")._value.get()
    assert [answer.path for answer in answers] == ["votes"] * 2  # it is not kept
    assert ids(answers[0]) == [2, 7, 3]
    assert failures == 2


@pytest.mark.parametrize(
    "error",
    [redis.ConnectionError("gone"), TimeoutError("late"), OSError("gone"), KeyError("member")],
)
def test_a_store_that_is_away_leaves_it_to_what_is_in_memory(
    folder: Path, sources: StandInSources, error: Exception
) -> None:
    class Gone:
        def of(self, member: Any) -> Scored | None:  # noqa: ARG002
            raise error

    for lists, expected in ((Made(), "precomputed"), (Gone(), "popular")):
        with opened(folder, sources, scorer=StandInScorer(), lists=lists) as recommender:
            sources.broken = error
            answer = recommender.of(Request(42))
            assert (answer.path, answer.member_known) == (expected, None)
            assert answer.items
            sources.broken = None
            assert recommender.of(Request(42)).path == "ranked"


def test_lists_that_hang_are_not_waited_for(folder: Path, sources: StandInSources) -> None:
    go = threading.Event()

    class Hangs:
        def of(self, member: Any) -> Scored | None:  # noqa: ARG002
            go.wait()
            return None

    sources.broken = OSError("gone")
    settings = {"deadline": f"{int(1000 * LATE)}ms"}
    healthy = StandInSources()
    config = config_of(folder, settings)
    parts = replace(parts_of(config, healthy, lists=Hangs()), sources=sources)
    with Recommender(config, parts) as recommender:
        began = time.monotonic()
        answer = recommender.of(Request(42))
        assert time.monotonic() - began < LATE
        go.set()
    assert answer.path == "popular"


def test_equal_questions_at_once_are_ranked_once(folder: Path, sources: StandInSources) -> None:
    scorer = Blocked()
    config = config_of(folder)
    parts = parts_of(config, sources, scorer=scorer)
    with Recommender(config, parts, threads=4) as recommender, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(recommender.of, Request(42)) for _ in range(4)]
        while sources.asked < 1:
            assert not any(one.done() for one in asked)
        scorer.go.set()
        paths = sorted(one.result().path for one in asked)
    assert paths == ["cached"] * 3 + ["ranked"]
    assert len(scorer.calls) == 1


def test_new_parts_serve_from_the_next_refresh_on(folder: Path, sources: StandInSources) -> None:
    config = config_of(folder)
    first = parts_of(config, sources)
    second = parts_of(config, sources, scorer=StandInScorer())
    coming: list[Any] = [None, second]

    def reopen(before: Any) -> Any:
        return coming.pop(0)

    with Recommender(config, first, reopen) as recommender:
        assert recommender.of(Request(42)).path == "votes"
        sources.popular_items = (1, 2)
        assert not recommender.refresh()
        assert recommender.parts.popular.items.tolist() == [1, 2]
        assert recommender.of(Request(42)).path == "cached"
        assert recommender.refresh()
        assert recommender.of(Request(42)).path == "ranked"


def test_a_members_actions_and_an_items_neighbours(folder: Path, sources: StandInSources) -> None:
    with opened(folder, sources) as recommender:
        actions = recommender.actions("42")
        assert [(row["item_id"], row["action"], row["sign"]) for row in actions] == [
            (1, "APPLY", 1),
            (4, "DISMISS", -1),
            (5, "SAVE", 1),
        ]
        assert actions[0]["title"] == "title of 1"
        near = recommender.neighbours("1", 2)
        assert [(row["item_id"], row["title"]) for row in near] == [
            (2, "title of 2"),
            (3, "title of 3"),
        ]
        assert near[0]["similarity"] == pytest.approx(1 / np.sqrt(1.01), abs=1e-3)
        assert recommender.neighbours(SEARCHED) == []  # without a vector nothing is near
        with pytest.raises(KeyError):
            recommender.neighbours(77)


def test_what_is_kept_is_made_once_and_what_fails_is_not_kept() -> None:
    kept: Kept[int] = Kept(60.0)
    makes: list[Callable[[], int]] = [lambda: 1, lambda: 2]

    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept.of("a", fails)
    assert kept.of("a", makes[0]) == (1, False)
    assert kept.of("a", makes[1]) == (1, True)
    assert kept.of("b", makes[1], keep=lambda _: False) == (2, False)
    assert kept.of("b", makes[0]) == (1, False)
    kept.clear()
    assert kept.of("a", makes[1]) == (2, False)
    nothing: Kept[int] = Kept(0.0)
    assert [nothing.of("a", make) for make in makes] == [(1, False), (2, False)]


def test_what_was_begun_before_all_was_forgotten_is_not_kept() -> None:
    kept: Kept[int] = Kept(60.0)

    def make() -> int:
        kept.clear()
        return 1

    assert kept.of("a", make) == (1, False)
    assert kept.of("a", lambda: 2) == (2, False)


@dataclass
class StandInStandby:
    """Says what it is told, and opens nothing but what it is given."""

    now: Traffic
    parts: dict[int | None, Parts] = field(default_factory=dict)

    def traffic(self) -> Traffic:
        return self.now

    def opened(
        self,
        kept: Mapping[int | None, Parts],  # noqa: ARG002
        beside: Parts,  # noqa: ARG002
    ) -> dict[int | None, Parts]:
        return self.parts


def shared(share: float) -> Traffic:
    one = Experiment(
        "release_2", "4c1d", share, "positive", (), 0.05, 2, 100, NOW, control="1", treatment="2"
    )
    layout = Experiment("layout", "a07e", 0.5, "positive", (), 0.05, 2, 100, NOW)
    return Traffic(1, (one, layout))


def test_a_members_arm_says_which_release_answers(folder: Path) -> None:
    config = config_of(folder)
    first = parts_of(config, StandInSources(popular_items=(1, 2)), release=1)
    second = parts_of(config, StandInSources(popular_items=(4, 5)), release=2)
    brought = {1: [1, 2], 2: [4, 5]}
    standby = StandInStandby(Traffic(1))
    with Recommender(config, first, standby=standby) as recommender:

        def answers() -> dict[int, tuple[int | None, str | None, list[Any]]]:
            made = {member: recommender.of(Request(member)) for member in range(60)}
            return {
                member: (one.release, one.arm, sorted(ids(one))) for member, one in made.items()
            }

        assert {(release, arm) for release, arm, _ in answers().values()} == {(1, None)}

        # Not open yet: it is asked for once, its members stay in their arm, and it is counted.
        standby.now = shared(0.2)
        assert recommender.follow()
        assert not recommender.follow()
        found = answers()
        assert {release for release, _, _ in found.values()} == {1}
        treated = sum("release_2:treatment" in (arm or "") for _, arm, _ in found.values())
        failures = recommender.metrics.failures.labels("treatment")._value.get()
        assert treated == failures > 0

        standby.parts = {2: second}
        recommender.refresh()
        in_arm: dict[int, tuple[int | None, str | None]] = {}
        for share in (0.2, 0.5):
            standby.now = shared(share)
            recommender.follow()
            assignments = [one.assignment for one in standby.now.experiments]
            for member, (release, arm, items) in answers().items():
                assert (release, arm) == standby.now.of(member)
                assert arm == arms_of(assignments, member)
                assert items == brought[release or 0]
                assert in_arm.get(member, (release, arm)) == (release, arm)
                if "release_2:" in (arm or ""):
                    in_arm[member] = release, arm
            assert {release for release, _ in in_arm.values()} == {1, 2}
        one = next(member for member, (release, _) in in_arm.items() if release == 2)
        assert recommender.now(Request(one)).release == 2

        standby.now = Traffic(2)  # all have it
        assert not recommender.follow()
        assert {(release, arm) for release, arm, _ in answers().values()} == {(2, None)}
        standby.now = Traffic(1)
        assert not recommender.follow()
        assert {release for release, _, _ in answers().values()} == {1}
