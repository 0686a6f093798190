"""Releases of a workspace: noted when published, served by a pointer, taken back, retired."""

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from operations.composition import fits_of, note_release, served_fits, served_lines
from operations.experiments.records import note_said
from operations.experiments.verdict import Verdict
from operations.fits import Fits, current_lines, lines_of
from operations.ledger import Ledger
from operations.releases import history, promote, releases, rollback, serving
from operations.traffic import traffic
from pipelines.cli import app as cli
from pipelines.releasing import release_what_is_published
from pipelines.sharing import begin_share
from pipelines.tagging import facts
from serving.recommend.asked import Answer, Request
from serving.recommend.parts import open_parts, reopening
from serving.recommend.recommend import Recommender
from serving.recommend.service import RecommendService
from serving.recommend.standby import WorkspaceStandby
from serving.request.limits import Limits
from serving.request.service import application
from serving.request.vectors import RequestTime
from tests.pipelines.test_candidates import CANDIDATES, DECAY, ENCODERS
from tests.pipelines.test_item_spaces import market
from tests.serving.recommend.test_service import Client
from tests.serving.recommend.test_service import served as running
from tests.worlds.workspace import AVERAGE, DAY, END, Workspace
from transformations.errors import InputError

VIEWS = {
    1: {"item_neighbours_co_actions_v1", "member_activity_decay_v1"},
    2: {"item_neighbours_co_actions_v1_f2", "member_activity_decay_v1_f2"},
}


def release(workspace: Workspace, lists: bool = False) -> None:
    as_of = END if lists else None
    workspace.do("run", lambda stages: release_what_is_published(workspace.config, stages, as_of))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two releases; the second serves."""
    workspace = market(tmp_path_factory.mktemp("releases"), AVERAGE)
    workspace.setting(
        "fit_holdback:", "recommend: {deadline: 60s, precompute: 5000, n: 4}\nfit_holdback:"
    )
    workspace.lines(AVERAGE, DECAY, encoders=ENCODERS, candidates=CANDIDATES[:4])
    workspace.run(END - DAY)
    # Killed between publishing and noting: the next one notes it.
    assert serving(workspace.config) is None
    assert served_fits(workspace.config).release is None
    release(workspace)
    assert "release 1 is made: average_v1, decay_v1" in workspace.said
    assert serving(workspace.config) == serving(workspace.config, "batch") == 1
    release(workspace)
    assert "is made" not in workspace.said
    workspace.fit(END - 4 * DAY)
    release(workspace)
    assert "is made" not in workspace.said  # nothing was published by the new fits
    assert [str(line) for line in served_lines(workspace.config)] == ["average_v1", "decay_v1"]
    workspace.run(END)
    assert serving(workspace.config) == 1
    release(workspace, lists=True)
    assert serving(workspace.config) == 2
    return workspace


def of_sources(answer: Answer) -> set[str]:
    return {view for source, view in answer.fits.items() if source in ("co_actions_v1", "decay_v1")}


def test_a_release_names_the_fits_that_were_published_together(served: Workspace) -> None:
    second, first = releases(served.config)
    assert first.named("space") == ["co_actions_v1", "tfidf_svd_v1"]
    assert second.named("space") == ["co_actions_v1_f2", "tfidf_svd_v1_f2"]
    assert second.named("line") == ["average_v1_f2", "decay_v1_f2"]
    assert second.named("source") == [
        "nearest_to_member_decay_v1_f2",
        "neighbours_co_actions_v1_f2",
        "popular_new_v1",
        "popular_popular_v1",
    ]
    assert second.fitted_until == END - 4 * DAY
    assert first.fitted_until == END - DAY - timedelta(days=3)
    assert [str(line) for line in lines_of(served.config)] == [
        "average_v1_f2", "decay_v1_f2", "average_v1", "decay_v1",
    ]  # fmt: skip


def test_what_answers_follows_the_pointer_as_a_swap_and_mixes_nothing(served: Workspace) -> None:
    config, store = served.config, served.store
    standby = WorkspaceStandby(config, store)
    with Recommender(
        config, open_parts(config, store), reopening(config, store), standby=standby
    ) as recommender:
        first = recommender.of(Request(3))
        assert (first.release, of_sources(first)) == (2, VIEWS[2])
        assert first.fits["reasons"] == "tfidf_svd_v1_f2"
        recommender.refresh()  # opens the one before
        second = recommender.parts
        assert rollback(config)["online"] == 1
        assert recommender.of(Request(3)).release == 2  # nobody looked yet
        assert not recommender.follow()
        answer = recommender.of(Request(3))
        assert (answer.release, of_sources(answer), answer.path) == (1, VIEWS[1], "votes")
        assert answer.fits["reasons"] == "tfidf_svd_v1"
        promote(config, 2)
        assert not recommender.follow()
        assert recommender.parts is second  # it stayed open
        assert recommender.of(Request(3)).release == 2

        # Lists of one release are not served by the other.
        def away(_: Any) -> None:
            raise ConnectionError("gone")

        for number, path in ((2, "precomputed"), (1, "popular")):
            promote(config, number)
            recommender.follow()
            recommender.parts.sources.member = away  # type: ignore[method-assign]
            answer = recommender.of(Request(3))
            assert (answer.path, answer.release) == (path, number)
        promote(config, 2)


def test_a_release_that_is_not_open_asks_for_a_refresh(served: Workspace) -> None:
    config, store = served.config, served.store
    promote(config, 1)
    parts = open_parts(config, store)
    promote(config, 2)
    standby = WorkspaceStandby(config, store)
    with Recommender(config, parts, reopening(config, store), standby=standby) as recommender:
        assert recommender.follow()
        assert recommender.of(Request(3)).release == 1
        assert recommender.refresh()
        assert recommender.of(Request(3)).release == 2
        promote(config, 1)
        assert not recommender.follow()  # what answered before stayed open
        assert recommender.of(Request(3)).release == 1
    promote(config, 2)


def test_a_share_is_answered_by_its_own_fits_and_mixes_nothing(served: Workspace) -> None:
    config, store = served.config, served.store
    promote(config, 1)
    standby = WorkspaceStandby(config, store)
    with Recommender(
        config, open_parts(config, store), reopening(config, store), standby=standby
    ) as recommender:
        recommender.refresh()
        for share in (0.2, 0.5):
            one = begin_share(config, 2, share, salt="4c1d")
            assert str(one.guardrails[-1]) == "coverage >= -20%"
            assert not recommender.follow()
            now, seen = traffic(config), set()
            for member in range(30):
                answer = recommender.of(Request(member))
                assert (answer.release, answer.arm) == now.of(member)
                assert answer.release is not None
                assert of_sources(answer) == VIEWS[answer.release]
                seen.add(answer.release)
            assert seen == {1, 2}
        said = facts(config).values()
        assert {"50% of the members"} < {by for one in said for by in one["serves"].split(", ")}
        assert {number for one in said for number in one["releases"].split(", ")} == {"1", "2"}
        rollback(config)
        recommender.follow()
        assert {recommender.of(Request(member)).release for member in range(30)} == {1}
    promote(config, 2)


@contextmanager
def service(workspace: Workspace) -> Iterator[Client]:
    """The whole service, as `activity serve` runs it, in this process."""
    config, store = workspace.config, workspace.store
    requests, standby = RequestTime(config, store), WorkspaceStandby(config, store)
    parts = open_parts(config, store, requests)
    reopen = reopening(config, store, requests)
    beside = RecommendService(Recommender(config, parts, reopen, standby=standby))
    limits = Limits(threads=2, max_in_flight=32, timeout=600.0)
    with running(application(requests, limits, 0.3, beside=[beside])) as client:
        yield client


def test_ten_moves_of_the_pointer_under_load_fail_no_request_and_mix_nothing(
    served: Workspace,
) -> None:
    config, end = served.config, threading.Event()
    answers: list[tuple[int, int | None, set[str], str]] = []

    def load(first: int, address: tuple[str, int]) -> None:
        connection = http.client.HTTPConnection(*address, timeout=600)
        member = first
        while not end.is_set():
            connection.request("GET", f"/recommend/{member % 40}?n=3")
            response = connection.getresponse()
            answer = json.loads(response.read())
            fits = answer["fits"]
            views = {fits[name] for name in ("co_actions_v1", "decay_v1")}
            answers.append((response.status, answer["release"], views, fits["reasons"]))
            member += 1
        connection.close()

    with service(served) as client, ThreadPoolExecutor(2) as pool:
        loading = [pool.submit(load, first, client.address) for first in (0, 20)]
        try:
            for move in range(10):
                if move % 2:
                    promote(config, 2)
                else:
                    rollback(config)
                    if move % 4:  # some of the members again
                        begin_share(config, 2, 0.5)
                now, _ = traffic(config).of(3)
                while client.ask("/recommend/3?n=3")[1]["release"] != now:
                    assert not any(one.done() for one in loading)
        finally:
            end.set()
        for one in loading:
            one.result()
    assert {status for status, *_ in answers} == {200}
    assert {release for _, release, _, _ in answers} == {1, 2}
    for _, number, views, space in answers:
        assert number is not None
        assert views == VIEWS[number]
        assert space == ("tfidf_svd_v1" if number == 1 else "tfidf_svd_v1_f2")


def test_the_commands_show_and_move_what_serves(served: Workspace) -> None:
    def call(*arguments: str) -> str:
        result = CliRunner().invoke(cli.app, [*arguments, "--config", str(served.root)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return " ".join(result.output.split())

    with pytest.raises(InputError, match="--share: lists have no share"):
        call("release", "promote", "1", "--share", "0.1", "--target", "batch")
    said = call("release", "promote", "1", "--share", "0.1")
    assert "release 1 answers 10% of the members; as many are the control: positive" in said
    assert "guardrail: latency per list <= +25%" in said
    assert "Release 1 answers 10% of the members; no run has read it yet" in call("status")
    assert "answers 10% of the members: release_1" in call("release", "list")
    assert "online: release 2 serves again" in call("release", "rollback")
    assert "2 serves" in call("release", "rollback", "--why", "fewer plays") + call(
        "release", "promote", "2", "--target", "batch"
    )
    assert "online: release 1; batch: release 2." in call("status")
    assert "serves: online" in call("release", "list")
    call("release", "promote", "2", "--why", "as before")
    assert "Release 2 serves." in call("status")
    shown = call("release", "show", "1")
    assert "co_actions_v1, tfidf_svd_v1" in shown
    assert "fewer plays" in shown
    with pytest.raises(InputError, match="--target: expected one of online, batch, got 'x'"):
        call("release", "promote", "1", "--target", "x")
    with pytest.raises(InputError, match="release 2 serves; first let another one serve"):
        call("release", "retire", "2", "--yes")
    assert "release 1 stays until" in call("release", "pin", "1", "--why", "read elsewhere")
    with pytest.raises(InputError, match=r"decay_v1: release 1 is pinned \(read elsewhere\)"):
        call("retire", "decay", "1", "--fit", "1", "--yes")
    call("release", "unpin", "1")
    call("release", "promote", "1")
    with pytest.raises(InputError, match="decay_v1: release 1 serves"):
        call("retire", "decay", "1", "--fit", "1", "--yes")
    call("release", "promote", "2")


def test_no_release_is_made_without_a_line_that_the_last_one_had(
    served: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(self: Fits, lines: Any) -> Any:
        return [line for line in self.bind(lines) if line.name != "decay"]

    monkeypatch.setattr(Fits, "made", without)
    with pytest.raises(InputError, match=r"all that release 2 has, got none of decay_v1 "):
        note_release(served.config)


def test_a_release_of_a_catalogue_without_a_source_leaves_it_out(served: Workspace) -> None:
    served.lines(AVERAGE, DECAY, encoders=ENCODERS, candidates=CANDIDATES[:3])
    config = served.config
    with Recommender(config, open_parts(config, served.store)) as recommender:
        assert "decay_v1" not in recommender.now(Request(3)).fits
    served.lines(
        AVERAGE, DECAY, encoders=ENCODERS,
        candidates=(*CANDIDATES[:4], 'Popular(name="more", version=1)'),
    )  # fmt: skip
    with Recommender(served.config, open_parts(served.config, served.store)) as recommender:
        assert "more_v1" not in recommender.now(Request(3)).fits  # no release names it yet
    served.lines(AVERAGE, DECAY, encoders=ENCODERS, candidates=CANDIDATES[:4])


def test_the_third_release_retires_the_first_and_what_only_that_named(served: Workspace) -> None:
    config = served.config
    begin_share(config, 1, 0.1, at=END - 4 * DAY)
    served.fit(END - 5 * DAY)
    served.run(END)
    assert "release 1, with 10% of the members, goes on." in served.said
    release(served)
    assert "release 3 waits: release 1 has a share" in served.said
    rollback(config)
    served.setting("promote: automatic", "promote: automatic, share: 0.5")
    release(served)
    assert "release 3 answers 50% of the members" in served.said
    shared = traffic(config).shared
    assert (serving(config), shared and shared.release) == (2, 3)
    note_said(Ledger(config), "release_3", Verdict("ship", "it is better."))
    release(served, lists=True)
    served.setting(", share: 0.5", "")
    assert (serving(config), traffic(config).shared) == (3, None)
    assert history(config)[0]["why"] == "its experiment says ship"
    assert [one.number for one in releases(config) if one.is_living] == [3, 2]
    assert "member_activity_decay_v1, online rows" in served.said
    views = {view.name for view in served.store.list_feature_views()}
    assert {"member_activity_decay_v1_f2", "item_neighbours_co_actions_v1_f3"} <= views
    assert not {"member_activity_decay_v1", "item_neighbours_co_actions_v1"} & views
    assert not config.layout.embeddings("member_activity_decay_v1").exists()
    assert [str(line) for line in current_lines(config)] == ["average_v1_f3", "decay_v1_f3"]
    with pytest.raises(InputError, match="release 1 is retired"):
        promote(config, 1)
    assert fits_of(config, 1).made(Fits(config).bind([])) == []
    release(served)
    assert "To be removed" not in served.said


def test_one_that_was_taken_back_waits_and_a_manual_one_too(served: Workspace) -> None:
    rollback(served.config)
    release(served)
    assert serving(served.config) == 2
    served.setting("promote: automatic", "promote: manual")
    promote(served.config, 3)
    served.lines(AVERAGE, encoders=ENCODERS, candidates=CANDIDATES[:3])
    release(served)
    assert "release 4 is made: average_v1_f3" in served.said
    assert serving(served.config) == 3
