"""Redis online and a PostgreSQL registry, as examples/feature_store.redis.yaml sets them up."""

import pytest
import redis
import sqlalchemy as sa

from models.spec import GeometricDecay
from serving import publish
from tests.worlds.applied import World, utc, vector
from tests.worlds.lines import AGGREGATORS

DECAY = next(line for line in AGGREGATORS if isinstance(line, GeometricDecay))
VIEWS = 2 + len(AGGREGATORS)
TODAY = utc(4)
MEMBERS = {10: [(1, "APPLY", utc(1, 3)), (2, "SAVE", utc(2, 4))], 11: []}

pytestmark = [pytest.mark.redis, pytest.mark.postgres]


@pytest.fixture
def world(tmp_path, redis_server, postgres_url, monkeypatch) -> World:
    monkeypatch.setenv("ACTIVITY_REDIS", redis_server)
    monkeypatch.setenv("ACTIVITY_REGISTRY_URL", postgres_url)
    world = World(tmp_path, settings="examples/feature_store.redis.yaml")
    world.snapshot(TODAY, MEMBERS)
    world.items("part-0", {1: utc(1), 2: utc(2)})
    return world


@pytest.fixture
def store(world):
    store = publish.open_store(world.config)
    publish.apply(world.config, store)
    yield store
    # Feast leaves its connections open, and a database in use cannot be dropped quietly.
    store.registry.write_engine.dispose()


def fetch(store, member, item):
    answer = store.get_online_features(
        features=store.get_feature_service(DECAY.service),
        entity_rows=[{"member_id": member, "item_id": item}],
    ).to_dict()
    return {name: values[0] for name, values in answer.items()}


def test_published_and_read_back(world, store, postgres_url):
    assert publish.publish(world.config, store, TODAY) == 2 * VIEWS + 2
    assert publish.read_back(world.config, store, TODAY) == 2 * VIEWS + 2
    row = fetch(store, 10, 1)
    assert row["embedding"] == pytest.approx(vector(1))
    assert (row["n_actions"], row["n_apply"], row["last_action_at"]) == (2, 1, utc(2, 4))
    engine = sa.create_engine(postgres_url)
    with engine.connect() as connection:
        names = connection.execute(sa.text("select feature_view_name from feature_views"))
        assert DECAY.view in set(names.scalars())
    engine.dispose()


@pytest.mark.parametrize(("member", "item"), [(99, 1), (10, 77), (11, 1)])
def test_who_or_what_is_not_there_matches_nothing(world, store, member, item):
    publish.publish(world.config, store, TODAY)
    row = fetch(store, member, item)
    assert {row[name] for name in row if name.startswith(("cosine", "dot"))} == {0.0}
    assert row["n_actions"] == (2 if member == 10 else 0)
    assert (row["apply_embedding"] is None) == (member == 99)


def test_a_corrected_run_of_the_same_day_lands(world, store):
    """Without skip_dedup, Redis would drop the rows, because it has their event time already."""
    publish.publish(world.config, store, TODAY)
    world.snapshot(TODAY, MEMBERS, salt="corrected")
    publish.publish(world.config, store, TODAY)
    publish.read_back(world.config, store, TODAY)
    expected = world.member_vector(DECAY, "apply_embedding", 10, TODAY, "corrected")
    assert fetch(store, 10, 1)["apply_embedding"] == pytest.approx(expected)


def test_an_emptied_redis_is_filled_again(world, store, redis_server):
    publish.publish(world.config, store, TODAY)
    host, port = redis_server.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.flushall()
    assert publish.publish(world.config, store, TODAY) == 2 * VIEWS + 2
    publish.read_back(world.config, store, TODAY)


def test_apply_again_and_remove_what_left_the_catalogue(world, store):
    def registered():
        store.refresh_registry()
        views = store.list_all_feature_views()
        return {v.name: (v.features, v.description, v.tags, v.owner) for v in views}

    publish.publish(world.config, store, TODAY)
    before = registered()
    publish.apply(world.config, store)
    assert registered() == before
    assert store.get_feature_view(DECAY.view).materialization_intervals == [(TODAY, TODAY)]
    publish.apply(world.config, store, AGGREGATORS[:1])
    left = {name for line in AGGREGATORS[1:] for name in (line.view, line.match)}
    assert set(before) - set(registered()) == left
    assert [s.name for s in store.list_feature_services()] == [AGGREGATORS[0].service]
