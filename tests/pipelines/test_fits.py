"""Versions and fits: what is frozen, what is made again, what is served until it is retired."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from operations.fits import Fits, current_lines, fit_until, lines_of, made_lines, retire_fit
from operations.ledger import Ledger
from pipelines.fitting import refuse_future
from serving import publish
from tests.worlds.workspace import AVERAGE, DAY, DECAY, END, Workspace
from transformations.errors import InputError
from transformations.layout import partition, partitions
from transformations.names import Space

pytestmark = pytest.mark.long


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_a_name_stands_for_one_fit_and_counts_on() -> None:
    assert str(Space("tfidf_svd", 1)) == "tfidf_svd_v1"
    assert Space("tfidf_svd", 1, 2).view == "item_embedding_tfidf_svd_v1_f2"


def test_what_is_held_back_is_a_tenth_of_a_short_span(workspace: Workspace) -> None:
    workspace.run()
    config = workspace.config
    assert fit_until(config, END) == END - timedelta(days=3)
    assert fit_until(config, END, at_least=timedelta(days=5)) == END - timedelta(days=5)
    unset = config.model_copy(update={"fit_holdback": None})
    # 90 events, five hours apart, the last one an hour before the end: 446 hours.
    assert fit_until(unset, END) == END - timedelta(hours=45)  # whole hours, never later


def test_a_fit_that_was_published_is_refused_where_it_saw_the_future(workspace: Workspace) -> None:
    workspace.run(END)
    config = workspace.config
    lines = current_lines(config)
    refuse_future(config, lines, END - 3 * DAY)
    with pytest.raises(InputError, match=r"average_v1 was fitted.*activity fit --until.*reset"):
        refuse_future(config, lines, END - 3 * DAY - timedelta(minutes=1))


def test_a_backfill_leaves_out_what_the_fit_saw_and_says_so(workspace: Workspace) -> None:
    workspace.run(END)
    workspace.backfill(*(END - n * DAY for n in range(1, 6)))
    config = workspace.config
    (line,) = current_lines(config)
    built = partitions(config.layout.embeddings(line.view))
    assert built == [END - 3 * DAY, END - 2 * DAY, END - DAY, END]
    assert "2 of 5 snapshots are left out" in workspace.said
    assert f"activity fit --until {END - 5 * DAY:%Y-%m-%d}" in workspace.said
    with pytest.raises(InputError, match="activity fit --until 2026-03-01"):
        workspace.backfill(datetime(2026, 3, 1, tzinfo=UTC))


def test_an_earlier_fit_is_served_beside_the_first_until_that_is_retired(
    workspace: Workspace,
) -> None:
    workspace.run(END)
    before = workspace.online("ranker_average_v1")
    workspace.fit(END - 10 * DAY)
    assert [str(line) for line in lines_of(workspace.config)] == ["average_v1_f2", "average_v1"]

    workspace.backfill(END - 6 * DAY)
    config = workspace.config
    assert partitions(config.layout.embeddings("member_activity_average_v1_f2")) == [END - 6 * DAY]
    assert partitions(config.layout.embeddings("member_activity_average_v1")) == [END]

    workspace.run(END)
    assert workspace.services() == ["ranker_average_v1", "ranker_average_v1_f2"]
    assert workspace.online("ranker_average_v1") == before  # its name never moves to another fit
    second = workspace.online("ranker_average_v1_f2")
    assert second["n_actions"] == before["n_actions"]
    file = partition(config.layout.embeddings("member_activity_average_v1_f2"), END)
    (made_by,) = set(pq.read_table(file)["model_version"].to_pylist())
    assert made_by.split("/")[::2] == ["average_v1_f2", "tfidf_svd_v1_f2"]

    first = next(line for line in lines_of(config) if line.fit == 1)
    retire_fit(config, first)
    retire_fit(config, Space("tfidf_svd", 1))
    views = {first.view, "item_embedding_tfidf_svd_v1"}
    removed = publish.retire_views(config, workspace.store, views)
    assert removed[first.view] == 7
    assert workspace.services() == ["ranker_average_v1_f2"]
    # The number is never given again.
    workspace.fit(END - 9 * DAY)
    assert [str(line) for line in current_lines(config)] == ["average_v1_f3"]


def test_a_backfill_embeds_published_and_new_snapshots_together(workspace: Workspace) -> None:
    """They were written by different queries: the new fit has rows of neither yet."""
    workspace.run(END)
    workspace.fit(END - 10 * DAY)
    days = (END - 8 * DAY, END)
    workspace.backfill(*days)
    layout = workspace.config.layout
    for day in days:
        of_fit = pq.read_table(partition(layout.embeddings("member_activity_average_v1_f2"), day))
        assert of_fit["member_id"] == pq.read_table(partition(layout.sequences, day))["member_id"]


def test_a_line_that_leaves_the_catalogue_goes_on(workspace: Workspace) -> None:
    workspace.lines(AVERAGE, DECAY)
    workspace.run(END - DAY)
    workspace.lines(AVERAGE)
    workspace.run(END)
    assert workspace.services() == ["ranker_average_v1", "ranker_decay_v1"]
    assert workspace.online("ranker_decay_v1")["n_actions"] == 13
    assert "kept beside the catalogue's newest: decay_v1" in workspace.said
    (kept,) = Fits(workspace.config).kept(current_lines(workspace.config))
    assert (kept.view, kept.stream) == ("member_activity_decay_v1", True)


def test_a_kept_line_of_other_settings_stays_as_it_is(workspace: Workspace) -> None:
    workspace.lines(AVERAGE, DECAY)
    workspace.run(END - DAY)
    workspace.lines("Average(version=2)")
    workspace.setting("dismiss: negative", "dismiss: negative, buy: positive")
    workspace.run(END)
    assert workspace.services() == ["ranker_average_v1", "ranker_average_v2", "ranker_decay_v1"]
    assert "without new rows: average_v1, decay_v1" in workspace.said
    assert "n_buy" in workspace.online("ranker_average_v2")
    assert "n_buy" not in workspace.online("ranker_decay_v1")
    assert workspace.online("ranker_decay_v1")["n_actions"] is not None


def test_what_was_never_used_is_made_again_with_changed_settings(workspace: Workspace) -> None:
    workspace.fit(END - 4 * DAY)  # nothing was published by it
    workspace.setting("text: [title]", "text: [title], categories: [title]")
    workspace.run(END)
    assert "tfidf_svd_v1 is made again" in workspace.said
    assert workspace.services() == ["ranker_average_v1"]
    workspace.setting("categories: [title]", "categories: []")
    with pytest.raises(InputError, match=r"raise the version of tfidf_svd"):
        workspace.run(END)
    workspace.lines(AVERAGE, encoders=["TfidfSvd(version=2)"])
    workspace.run(END)  # no line asks for another version
    names = [str(line) for line in lines_of(workspace.config)]
    assert names == ["average_v1_f2", "average_v1"]
    assert [str(line.space) for line in lines_of(workspace.config)] == [
        "tfidf_svd_v2",
        "tfidf_svd_v1",
    ]


def test_a_failed_first_run_blocks_no_earlier_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("the registry went away")

    with monkeypatch.context() as patch:
        patch.setattr(publish, "apply", refuse)
        with pytest.raises(InputError, match="went away"):
            workspace.run(END)
    workspace.run(END - 8 * DAY)
    assert "is made again" in workspace.said
    assert workspace.online("ranker_average_v1")["n_actions"]


def test_formulas_are_online_before_what_learns_is_trained(workspace: Workspace) -> None:
    workspace.setting("dim: 2", "dim: 2\nmin_positives: 1")
    none_there = "Recipe(validation=timedelta(seconds=1))"
    workspace.lines(AVERAGE, f"LearnedDecay(version=1, recipe={none_there})")
    with pytest.raises(InputError, match="to validate on"):
        workspace.run(END)
    assert workspace.services() == ["ranker_average_v1"]
    assert workspace.online("ranker_average_v1")["n_actions"] == 13


def test_what_has_too_little_to_learn_from_is_left_out_and_named(workspace: Workspace) -> None:
    workspace.lines(AVERAGE, "LearnedDecay(version=1)")
    workspace.run(END)
    assert "learned_decay_v1 is not trained" in workspace.said
    assert "min_positives" in workspace.said
    assert workspace.services() == ["ranker_average_v1"]
    assert [str(line) for line in made_lines(workspace.config)] == ["average_v1"]
    workspace.backfill(END - DAY)
    assert partitions(workspace.config.layout.embeddings("member_activity_learned_decay_v1")) == []


def test_an_unchanged_rerun_keeps_since_when_rows_can_be_read(workspace: Workspace) -> None:
    def stamps() -> dict[int, datetime]:
        file = partition(workspace.config.layout.embeddings("member_activity_average_v1"), END)
        rows = pq.read_table(file, columns=["member_id", "created_timestamp"]).to_pylist()
        return {row["member_id"]: row["created_timestamp"] for row in rows}

    workspace.run(END)
    first = stamps()
    workspace.run(END)
    assert stamps() == first
    with (workspace.root / "source" / "events.csv").open("a") as file:
        file.write(f"3,g-1,play,{END - timedelta(minutes=5):%Y-%m-%d %H:%M:%S}\n")
    workspace.run(END)
    second = stamps()
    assert {member for member in first if second[member] != first[member]} == {3}
    assert second[3] > first[3]


def test_a_workspace_of_before_there_were_fits_goes_on(workspace: Workspace) -> None:
    workspace.lines(AVERAGE, DECAY)
    workspace.run(END - DAY)
    with Ledger(workspace.config).engine.begin() as connection:
        connection.execute(sa.text("drop table fit"))
    workspace.lines(AVERAGE)
    workspace.run(END)
    assert workspace.services() == ["ranker_average_v1", "ranker_decay_v1"]
