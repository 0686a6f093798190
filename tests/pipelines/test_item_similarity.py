"""A space whose similarity is the dot product: its match, its neighbours, its distances."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.lines import similarity_of
from operations.fits import current_lines, lines_of
from pipelines.cli.items import _neighbours
from stores.read import Reader
from tests.worlds.workspace import END, Workspace
from transformations.errors import InputError

# g-0 and g-1 have one direction, g-3 is 45° away and long: nearest to g-0 is g-1 by cosine, but
# g-3 by dot product.
VECTORS = {"g-0": (1, 0), "g-1": (2, 0), "g-2": (0, 1), "g-3": (4, 4)}
DOT = 'Given(name="mine", version=1, column="v", similarity="dot")'
COSINE = DOT.replace(', similarity="dot"', "")
AVERAGE = "Average(version=1)"
PLAYED = (("3", "g-0"), ("3", "g-3"), ("4", "g-2"))


def workspace(folder: Path, *encoders: str) -> Workspace:
    made = Workspace(folder)
    made.setting("text: [title]", "embedding: [v]")
    rows = [f'{item},"[{x}, {y}]"' for item, (x, y) in VECTORS.items()]
    (made.root / "source" / "items.csv").write_text("\n".join(["product,v", *rows]) + "\n")
    when = END - timedelta(hours=5)
    events = [f"{member},{item},play,{when:%Y-%m-%d %H:%M:%S}" for member, item in PLAYED]
    header = "user_id,product,event_type,ts"
    (made.root / "source" / "events.csv").write_text("\n".join([header, *events]) + "\n")
    made.lines(AVERAGE, encoders=encoders)
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = workspace(tmp_path_factory.mktemp("dot"), DOT)
    made.run(END)
    return made


# Member 3: the mean of (1, 0) and (4, 4), which is (2.5, 2), with each item.
MATCHES = {"g-0": 2.5, "g-1": 5.0, "g-2": 2.0, "g-3": 18.0}


def features(found: dict[str, Any]) -> set[str]:
    return {name for name in found if name.startswith(("cosine", "dot"))}


def test_the_match_is_the_dot_product_online_and_says_so(served: Workspace) -> None:
    store = served.store
    service = store.get_feature_service("ranker_average_v1")
    rows = {"member_id": [3] * 5, "item_id": [*VECTORS, "g-none"]}
    answer = store.get_online_features(service, rows).to_dict()
    assert features(answer) == {"dot_play", "dot_dismiss"}
    assert answer["dot_play"] == [*MATCHES.values(), 0.0]
    assert answer["dot_dismiss"] == [0.0] * 5
    with Reader(store, service) as reader:
        assert {**rows, **reader.read(rows).to_dict()} == answer


def test_a_training_join_says_the_same(served: Workspace) -> None:
    store = served.store
    # The snapshot could be read once it was published: now.
    at = pd.Timestamp.now(tz="UTC") + timedelta(days=1)
    labels = pd.DataFrame({"member_id": 3, "item_id": [*VECTORS], "event_timestamp": at})
    joined = store.get_historical_features(
        labels, store.get_feature_service("ranker_average_v1"), filter_by_created_timestamp=True
    ).to_df()
    assert features(dict(joined)) == {"dot_play", "dot_dismiss"}
    assert joined.set_index("item_id")["dot_play"].to_dict() == MATCHES


def test_neighbours_are_those_of_the_spaces_similarity(served: Workspace, tmp_path: Path) -> None:
    ((space, _, near),) = _neighbours(served.config, "g-0", 3)
    assert space == "mine_v1, dot"
    assert [(each.item, each.similarity) for each in near] == [("g-3", 4), ("g-1", 2), ("g-2", 0)]
    other = workspace(tmp_path / "cosine", COSINE)
    other.run(END)
    ((space, _, near),) = _neighbours(other.config, "g-0", 3)
    assert space == "mine_v1, cosine"
    assert [each.item for each in near] == ["g-1", "g-3", "g-2"]
    assert [each.similarity for each in near] == pytest.approx([1, np.sqrt(0.5), 0])
    assert features(other.online("ranker_average_v1")) == {
        *("cosine_play", "dot_play", "cosine_dismiss", "dot_dismiss")
    }


def test_a_line_is_matched_as_before_once_its_encoder_left_the_catalogue(tmp_path: Path) -> None:
    made = workspace(tmp_path / "kept", DOT)
    made.run(END)
    made.lines("Average(version=2)", encoders=[COSINE.replace("mine", "other")])
    made.run(END)
    similarities = {str(line): similarity_of(made.config, line) for line in lines_of(made.config)}
    assert similarities == {"average_v2": "cosine", "average_v1": "dot"}
    assert features(made.online("ranker_average_v1")) == {"dot_play", "dot_dismiss"}


def test_another_similarity_is_another_version(tmp_path: Path) -> None:
    made = workspace(tmp_path / "changed", COSINE)
    made.run(END)
    made.lines(AVERAGE, encoders=[DOT])
    with pytest.raises(InputError, match=r'item_encoder: packaged .*"similarity": "dot"'):
        made.run(END + timedelta(days=1))
    assert [similarity_of(made.config, line) for line in current_lines(made.config)] == ["dot"]


def test_a_similarity_is_one_of_two(tmp_path: Path) -> None:
    made = workspace(tmp_path / "wrong", DOT.replace("dot", "euclid"))
    with pytest.raises(InputError, match="mine: similarity: expected 'cosine' or 'dot', got"):
        made.run(END)
