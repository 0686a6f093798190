"""From hand-written partitions to what a ranker gets online."""

import re
import sqlite3
import sys
from datetime import timedelta

import pandas as pd
import pytest
from rich.console import Console

from models.spec import GeometricDecay
from serving import publish
from serving.publish import feast_store
from serving.publish import items as items_online
from tests.worlds.applied import World, utc, vector
from tests.worlds.lines import AGGREGATORS
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition
from transformations.names import SEQUENCE_VIEW

DECAY = next(line for line in AGGREGATORS if isinstance(line, GeometricDecay))
# Those with a row a member: the sequences, their statistics, and each aggregator's.
VIEWS = 2 + len(AGGREGATORS)
TODAY = utc(4)
ACTIONS = [(1, "APPLY", utc(1, 3, microsecond=999_999)), (2, "SAVE", utc(2, 4))]
MEMBERS = {10: ACTIONS, 11: [], 12: ACTIONS[:1]}


@pytest.fixture
def world(tmp_path) -> World:
    """Applied, with one snapshot that is not published yet."""
    world = World(tmp_path)
    world.snapshot(TODAY, MEMBERS)
    world.items("part-0", {1: utc(1), 2: utc(2), 3: utc(20)})
    publish.apply(world.config, publish.open_store(world.config))
    return world


@pytest.fixture
def store(world):
    return publish.open_store(world.config)


@pytest.fixture
def published(world, store):
    publish.publish(world.config, store, TODAY)
    return store


def online(store, features, **keys):
    """What the online store returns, as one dict per row."""
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)]
    if isinstance(features, str):
        features = store.get_feature_service(features)
    answer = store.get_online_features(features=features, entity_rows=rows).to_dict()
    return [dict(zip(answer, row, strict=True)) for row in zip(*answer.values(), strict=True)]


def fetch(store, member, item=1):
    (row,) = online(store, DECAY.service, member_id=[member], item_id=[item])
    return row


def test_a_ranker_gets_vectors_counts_item_and_match(world, published):
    row = fetch(published, 10)
    apply = world.member_vector(DECAY, "apply_embedding", 10, TODAY)
    assert row["apply_embedding"] == pytest.approx(apply)
    assert row["dismiss_embedding"] == [0.0] * 4
    assert row["embedding"] == pytest.approx(vector(1))
    assert (row["n_actions"], row["n_apply"], row["n_save"], row["n_dismiss"]) == (2, 1, 1, 0)
    assert row["last_action_at"] == utc(2, 4)
    dot = sum(a * b for a, b in zip(apply, vector(1), strict=True))
    assert row["dot_apply"] == pytest.approx(dot, abs=1e-6)
    assert set(row) == {
        *("member_id", "item_id", "embedding", "last_action_at"),
        *("n_actions", "n_apply", "n_save", "n_dismiss"),
        *("apply_embedding", "save_embedding", "dismiss_embedding"),
        *("cosine_apply", "cosine_save", "cosine_dismiss"),
        *("dot_apply", "dot_save", "dot_dismiss"),
    }


@pytest.mark.parametrize(("member", "item"), [(99, 1), (10, 77), (99, 77)])
def test_who_or_what_is_not_there_matches_nothing(published, member, item):
    row = fetch(published, member, item)
    assert (row["apply_embedding"] is None) == (member == 99)
    assert (row["embedding"] is None) == (item == 77)
    assert (row["last_action_at"] is None) == (member == 99)
    assert {row[name] for name in row if name.startswith(("cosine", "dot"))} == {0.0}
    assert row["n_actions"] == (0 if member == 99 else 2)
    assert row["n_apply"] == (0 if member == 99 else 1)


def test_feast_still_drops_matches_online_under_full_names(published):
    """A limit of Feast 0.67 that docs/feast.md tells of; when this fails, it is gone."""
    answer = published.get_online_features(
        features=published.get_feature_service(DECAY.service),
        entity_rows=[{"member_id": 10, "item_id": 1}],
        full_feature_names=True,
    ).to_dict()
    assert "member_activity_decay_v1__apply_embedding" in answer
    assert not [name for name in answer if name.startswith("activity_match")]


def test_a_member_that_lapsed_is_zeros_not_null(published):
    row = fetch(published, 11)
    assert row["apply_embedding"] == [0.0] * 4
    assert (row["n_actions"], row["cosine_apply"]) == (0, 0.0)
    assert row["last_action_at"] == TODAY - timedelta(days=28)


def test_one_member_and_many_items(published):
    rows = online(published, DECAY.service, member_id=[10] * 500, item_id=[1, 2, 3, 4, 5] * 100)
    assert len({row["cosine_apply"] for row in rows}) == 3


def test_the_sequence_view_holds_the_actions(published):
    names = ["item_ids", "actions", "event_timestamps", "n_actions"]
    (row,) = online(published, [f"{SEQUENCE_VIEW}:{n}" for n in names], member_id=[10])
    assert row["item_ids"] == [1, 2]
    assert row["actions"] == ["APPLY", "SAVE"]
    # Feast keeps whole seconds online: 3:00:00.999999 becomes 3:00:00.
    assert row["event_timestamps"] == [utc(1, 3), utc(2, 4)]


def test_only_this_snapshot_goes_online(world, store):
    world.snapshot(utc(3), {10: ACTIONS[:1], 20: ACTIONS})
    world.snapshot(utc(5), {10: [], 30: ACTIONS})
    assert publish.publish(world.config, store, TODAY) == 3 * VIEWS + 2
    assert fetch(store, 10)["n_actions"] == 2
    assert fetch(store, 20)["apply_embedding"] is None
    assert fetch(store, 30)["apply_embedding"] is None


def test_progress_counts_every_row(world, store):
    steps: list[int] = []
    assert publish.publish(world.config, store, TODAY, progress=steps.append) == sum(steps)


def test_a_corrected_run_of_the_same_day_lands(world, published):
    world.snapshot(TODAY, MEMBERS, salt="corrected")
    publish.publish(world.config, published, TODAY)
    expected = world.member_vector(DECAY, "apply_embedding", 10, TODAY, "corrected")
    assert fetch(published, 10)["apply_embedding"] == pytest.approx(expected)


@pytest.mark.mended_trap("plain Feast's SQLite store overwrites a newer row by an older one")
def test_an_older_snapshot_does_not_replace_a_newer_one_online(world, published):
    """The command refuses this earlier; the store ensures it for every writer."""
    before = fetch(published, 10)["apply_embedding"]
    world.snapshot(utc(3), MEMBERS, salt="older")
    publish.publish(world.config, published, utc(3))
    assert fetch(published, 10)["apply_embedding"] == before


def test_a_missing_partition_is_named_before_anything_is_written(world, store):
    partition(world.config.layout.embeddings(DECAY.view), TODAY).unlink()
    with pytest.raises(RunFailedError, match="member_activity_decay_v1 has no snapshot of 2026-"):
        publish.publish(world.config, store, TODAY)
    names = [f"{SEQUENCE_VIEW}:n_actions"]
    assert online(store, names, member_id=[10])[0]["n_actions"] is None


class TestItems:
    """Every vector available by as_of is online, and none is written twice without need."""

    SNAPSHOT = 3 * VIEWS

    def items_written(self, world, store, as_of):
        return publish.publish(world.config, store, as_of) - self.SNAPSHOT

    def test_of_the_future_stay_out(self, published):
        assert fetch(published, 10, 2)["embedding"] is not None
        assert fetch(published, 10, 3)["embedding"] is None

    def test_are_not_written_again(self, world, published):
        assert self.items_written(world, published, TODAY) == 0

    def test_come_when_their_time_comes(self, world, published):
        world.snapshot(utc(21), MEMBERS)
        assert self.items_written(world, published, utc(21)) == 1
        assert fetch(published, 10, 3)["embedding"] == pytest.approx(vector(3))

    def test_that_were_late_come_too(self, world, published):
        world.items("part-1", {4: utc(1)})
        assert self.items_written(world, published, TODAY) > 0
        assert fetch(published, 10, 4)["embedding"] == pytest.approx(vector(4))

    def test_come_back_when_the_store_lost_them(self, world, published):
        with sqlite3.connect(world.config.data / "online.db") as con:
            con.execute("delete from member_activity_item_embedding_tfidf_svd_v1")
        con.close()
        assert self.items_written(world, published, TODAY) == 2
        assert fetch(published, 10, 1)["embedding"] == pytest.approx(vector(1))

    def test_go_to_another_store_from_the_start(self, world, store, monkeypatch):
        publish.publish(world.config, store, TODAY)
        settings = world.folder / "feature_store.yaml"
        settings.write_text(settings.read_text().replace("online.db", "other.db"))
        other = publish.open_store(world.config)
        publish.apply(world.config, other)
        # Not because the probe finds items missing there: it might, by chance, not draw them.
        monkeypatch.setattr(items_online, "PROBED", 0)
        assert self.items_written(world, other, TODAY) == 2


def test_read_back_of_what_was_published(world, published):
    assert publish.read_back(world.config, published, TODAY) == 3 * VIEWS + 2
    assert publish.read_back(world.config, published, TODAY, members=1, seed=1) == VIEWS + 1


@pytest.mark.parametrize(
    ("view", "column", "value"),
    [
        (DECAY.view, "apply_embedding", [9.0, 0.0, 0.0, 0.0]),
        (DECAY.view, "apply_embedding", [0.0]),
        (DECAY.view, "stored_n_actions", 3),
        (DECAY.view, "stored_n_apply", None),
        (DECAY.view, "last_action_at", utc(2, 5)),
        (DECAY.view, "model_version", "another"),
        (SEQUENCE_VIEW, "item_ids", [2, 1]),
        (SEQUENCE_VIEW, "actions", ["APPLY"]),
        (SEQUENCE_VIEW, "event_timestamps", [utc(1, 3), utc(2, 5)]),
    ],
)
def test_read_back_finds_what_differs(world, published, view, column, value):
    stored = published.get_feature_view(view).batch_source.field_mapping
    row = next(r for r in world.table(view, TODAY) if r["member_id"] == 10)
    row = {stored.get(name, name): cell for name, cell in row.items()} | {column: value}
    published.write_to_online_store(view, pd.DataFrame([row]))
    with pytest.raises(RunFailedError, match=rf"{view}: for member_id 10 .* {column} = "):
        publish.read_back(world.config, published, TODAY)


def test_read_back_finds_members_and_items_that_never_arrived(world, store):
    with pytest.raises(RunFailedError, match=r"returns \w+ = None"):
        publish.read_back(world.config, store, TODAY)


def test_read_back_allows_a_millionth(world, published):
    def shift(by):
        row = next(r for r in world.table(DECAY.view, TODAY) if r["member_id"] == 10)
        stored = published.get_feature_view(DECAY.view).batch_source.field_mapping
        row = {stored.get(name, name): cell for name, cell in row.items()}
        row["apply_embedding"] = [x + by for x in row["apply_embedding"]]
        published.write_to_online_store(DECAY.view, pd.DataFrame([row]))

    shift(5e-7)
    publish.read_back(world.config, published, TODAY)
    shift(3e-6)
    with pytest.raises(RunFailedError, match="apply_embedding"):
        publish.read_back(world.config, published, TODAY)


def test_restamp_changes_when_and_nothing_else(world):
    world.snapshot(utc(3), MEMBERS)
    names = [SEQUENCE_VIEW, *(a.view for a in AGGREGATORS)]
    before = {(name, day): world.table(name, utc(day)) for name in names for day in (3, 4)}
    created = utc(4, 7, microsecond=123_456)
    assert publish.restamp(world.config, TODAY, created) == 3 * VIEWS
    for (name, day), rows in before.items():
        expected = [r | {"created_timestamp": created} if day == 4 else r for r in rows]
        assert world.table(name, utc(day)) == expected
    assert not list(world.config.data.rglob("*.tmp"))


def test_nothing_of_feasts_chatter_reaches_the_terminal(world, capfd):
    store = publish.open_store(world.config)
    publish.apply(world.config, store, AGGREGATORS[:1])
    publish.publish(world.config, store, TODAY, AGGREGATORS[:1])
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_a_progress_bar_still_reaches_the_terminal(capfd):
    with feast_store.quiet():
        Console().print("bar")
        print("chatter")
    assert capfd.readouterr().out == "bar\n"


def test_what_feast_said_comes_with_its_error():
    @feast_store.quiet()
    def failing():
        print("about to fail")
        print("so there", file=sys.stderr)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        failing()
    assert caught.value.__notes__ == ["Feast said:\nabout to fail\nso there"]


def test_apply_removes_what_left_the_catalogue(world, store):
    publish.apply(world.config, store, AGGREGATORS[:1])
    assert [s.name for s in store.list_feature_services()] == ["ranker_average_v1"]
    assert DECAY.view not in {v.name for v in store.list_all_feature_views()}
    assert DECAY.view not in {s.name for s in store.list_data_sources()}


def test_apply_twice_changes_nothing(world, store):
    def states():
        return [v.last_updated_timestamp for v in store.list_all_feature_views()]

    before = states()
    assert publish.apply(world.config, store) == 6 + 3 * len(AGGREGATORS)
    store.refresh_registry()
    assert states() == before


def test_a_deleted_online_store_is_filled_again(world, published):
    (world.config.data / "online.db").unlink()
    store = publish.open_store(world.config)
    publish.apply(world.config, store)
    assert publish.publish(world.config, store, TODAY) == 3 * VIEWS + 2
    publish.read_back(world.config, store, TODAY)


def test_tags_follow_the_packaged_weights(world, store):
    class Retrained(type(DECAY)):
        def identity(self, config):
            return super().identity(config) | {"weights_sha256": "abc"}

    publish.apply(world.config, store, [Retrained(version=1, decay=0.8)])
    assert store.get_feature_view(DECAY.view).tags["weights_sha256"] == "abc"
    assert store.get_feature_service(DECAY.service).tags["weights_sha256"] == "abc"


def test_the_same_store_from_any_folder(world, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fetch(publish.open_store(world.config), 10)["n_actions"] == 2


def test_relative_paths_are_the_repositorys(tmp_path, monkeypatch):
    root = tmp_path / "root"
    assert feast_store._absolute("sqlite:///data/registry.db", root) == (
        f"sqlite:///{tmp_path}/root/data/registry.db"
    )
    assert (tmp_path / "root" / "data").is_dir()
    for url in ("postgresql+psycopg://me:secret@host/db", "sqlite://"):
        assert feast_store._absolute(url, root) == url


def test_settings_that_are_missing_or_incomplete(world, monkeypatch):
    settings = world.folder / "feature_store.yaml"
    monkeypatch.delenv("ACTIVITY_NO_SUCH", raising=False)
    settings.write_text("registry: ${ACTIVITY_NO_SUCH}\n# ${ONLY_A_COMMENT}\n")
    with pytest.raises(InputError, match=r"not set: ACTIVITY_NO_SUCH$"):
        publish.open_store(world.config)
    for text in (
        "project: p",
        "- a list",
        "registry: {registry_type: sql, path: no url}",
        "a: [",
        "{project: p, registry: r, online_store: {type: no_such}}",
    ):
        settings.write_text(text)
        with pytest.raises(InputError, match=re.escape(str(settings))):
            publish.open_store(world.config)
    settings.unlink()
    with pytest.raises(InputError, match="feature_store: expected Feast's settings at"):
        publish.open_store(world.config)


def test_ids_may_be_strings(tmp_path):
    world = World(tmp_path, id_type="string")
    world.snapshot(TODAY, {"mé": [("j/1", "APPLY", utc(1))], "b": []})
    world.items("part-0", {"j/1": utc(1)})
    store = publish.open_store(world.config)
    publish.apply(world.config, store)
    publish.publish(world.config, store, TODAY)
    assert publish.read_back(world.config, store, TODAY) == 2 * VIEWS + 1
    (row,) = online(store, DECAY.service, member_id=["mé"], item_id=["j/1"])
    assert (row["n_apply"], row["cosine_apply"] != 0.0) == (1, True)
