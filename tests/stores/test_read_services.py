"""The product's own feature services through `stores.read`: the values of a ranker's fetch."""

from pathlib import Path

import numpy as np
import pytest

from serving import publish
from stores.read import Reader
from tests.worlds.applied import DIM, World, utc
from tests.worlds.lines import AGGREGATORS

ACTIONS = [(1, "APPLY", utc(1, 3)), (2, "SAVE", utc(2, 4))]


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda each: each.name)
def test_a_ranker_service_read_as_arrays(aggregator, tmp_path: Path) -> None:
    """Members with actions, with none left (11) and unknown (99); items known and unknown (77)."""
    world = World(tmp_path)
    world.snapshot(utc(4), {10: ACTIONS, 11: [], 12: ACTIONS[:1]})
    world.items("part-0", {1: utc(1), 2: utc(2)})
    store = publish.open_store(world.config)
    publish.apply(world.config, store)
    publish.publish(world.config, store, utc(4))
    service = store.get_feature_service(aggregator.service)
    rows = {"member_id": [10, 10, 11, 99, 12, 99], "item_id": [1, 77, 2, 1, 2, 77]}

    answer = store.get_online_features(service, rows).to_dict()
    with Reader(store, service) as reader, Reader(store, service, on_demand=False) as bare:
        got = reader.read(rows)
        vectors = bare.read({"member_id": 10, "item_id": [1, 2, 77]})
    assert {**rows, **got.to_dict()} == answer
    assert got["embedding"].dtype == np.float32
    assert got["embedding"].shape == (6, DIM)
    assert vectors.present["embedding"].tolist() == [True, True, False]
    assert not any(name.startswith(("cosine", "dot")) for name in vectors.arrays)
