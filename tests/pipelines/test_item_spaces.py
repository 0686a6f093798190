"""Several item spaces in one workspace: fitted on the past, folded in, served side by side."""

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.new_items import without_fold_in
from feature_repo.views import declare
from models.items.saved import fitted_until
from models.lines import catalogue_lines, encoder_lines
from models.manifest import read
from operations.fits import Fits, current_lines, lines_of
from pipelines.cli.fits import _how_far
from pipelines.cli.items import _neighbours
from pipelines.refresh import refresh_items
from serving.request.vectors import RequestTime
from serving.stream.vectors import Vectors
from tests.worlds.workspace import END, Workspace
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import part_files
from transformations.names import Space

pytestmark = pytest.mark.long

DAY = timedelta(days=1)
MEMBERS, ITEMS, DAYS = 120, 40, 30
WORDS = (("data", "engineer", "python", "analyst"), ("nurse", "night", "ward", "care"))
CO_ACTIONS = "CoActions(version=1)"
LAYER = 'ranks="positive", projected=False, share="all", decays=2'
TRAINED = f"Trained(version=1, epochs=2, text_dim=8, layer=LearnedDecay(version=1, {LAYER}))"
ENCODERS = ("TfidfSvd(version=1)", CO_ACTIONS, TRAINED)
GIVEN = ('Given(name="e5", version=1, column="v")',)
LINES = (
    "Average(version=1)",
    'GeometricDecay(version=1, decay=0.5, items="co_actions_v1", stream=True)',
    f'LearnedDecay(version=1, items="trained_v1", {LAYER})',
)


def write_market(folder: Path, last: datetime) -> None:
    """Write two fields of work whose members stay in theirs, until a day before `last`."""
    rng = np.random.default_rng(5)
    rows = []
    for member in range(MEMBERS):
        for _ in range(12):
            when = last - DAY - DAYS * DAY * float(rng.random())
            item = 2 * int(rng.integers(ITEMS // 2)) + member % 2
            action = ("play", "dismiss")[int(rng.random() < 0.15)]
            rows.append(f"{member},g-{item},{action},{when:%Y-%m-%d %H:%M:%S}")
    (folder / "events.csv").write_text("\n".join(["user_id,product,event_type,ts", *rows]) + "\n")
    items = [f"g-{item},{' '.join(rng.choice(WORDS[item % 2], 2))}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["product,title", *items]) + "\n")


def act(workspace: Workspace, *rows: str) -> None:
    with (workspace.root / "source" / "events.csv").open("a") as file:
        file.write("\n".join(rows) + "\n")


def market(
    folder: Path, *lines: str, encoders: tuple[str, ...] = ENCODERS, holdback: int = 3
) -> Workspace:
    workspace = Workspace(folder)
    workspace.setting("fit_holdback: 3d", f"fit_holdback: {holdback}d")
    write_market(folder / "source", END)
    workspace.setting("dim: 2", "dim: 3\nmin_positives: 1")
    workspace.lines(*lines, encoders=encoders)
    return workspace


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("spaces"), *LINES)
    workspace.run(END - DAY)
    workspace.run(END)
    return workspace


def vectors(config: Config) -> dict[tuple[str, datetime], list[float]]:
    rows = [
        row
        for file in part_files(config.items_dir)
        for row in pq.ParquetFile(file).read().to_pylist()
    ]
    return {(row["item_id"], row["available_at"]): row["embedding"] for row in rows}


def test_each_encoder_has_its_table_its_view_and_its_manifest(served: Workspace) -> None:
    config = served.config
    spaces = [Space(name, 1) for name in ("tfidf_svd", "co_actions", "trained")]
    assert list(Fits(config).spaces.values()) == spaces
    registered = {view.name for view in served.store.list_feature_views()}
    for space in spaces:
        own = config.in_space(space)
        assert {item for item, _ in vectors(own)} == {f"g-{item}" for item in range(ITEMS)}
        assert space.view in registered
        manifest = json.loads((config.layout.item_encoder(space) / "manifest.json").read_text())
        assert datetime.fromisoformat(manifest["fit_before"]) == END - DAY - 3 * DAY
    assert [line.space for line in lines_of(config)] == spaces
    assert {obj.name for obj in declare(config)} >= {space.view for space in spaces}


def test_what_is_online_is_the_line_in_its_own_space(served: Workspace) -> None:
    answer = served.online("ranker_decay_v1")
    config = served.config.in_space(Space("co_actions", 1))
    newest = max(at for item, at in vectors(config) if item == "g-1")
    np.testing.assert_allclose(answer["embedding"], vectors(config)["g-1", newest], rtol=1e-6)
    assert np.isfinite(answer["cosine_play"])


def test_request_time_agrees_with_what_is_online_in_every_space(served: Workspace) -> None:
    config, store = served.config, served.store
    lines = [line for line in current_lines(config) if line.is_packaged(config)]
    assert len(lines) == 3
    embedded = RequestTime(config, store, lambda: lines).embed([3, 4], as_of=END)
    for line in lines:
        for field, values in embedded.vectors[line.view].items():
            stored = store.get_online_features(
                features=[f"{line.view}:{field}"], entity_rows=[{"member_id": n} for n in (3, 4)]
            ).to_dict()[field]
            np.testing.assert_allclose(values, stored, atol=1e-5)


def test_one_training_makes_the_space_and_the_line(served: Workspace) -> None:
    (line,) = [line for line in lines_of(served.config) if line.name == "learned_decay"]
    manifest = read(line.artifact(served.config), str(line))
    assert manifest["figures"]["space"] == "trained_v1"
    trained = served.config.in_space(Space("trained", 1))
    assert datetime.fromisoformat(manifest["trained_until"]) == fitted_until(trained)


def test_nothing_from_after_the_end_of_its_data_changes_a_byte_of_a_fit(tmp_path: Path) -> None:
    def archives(workspace: Workspace) -> dict[str, str]:
        workspace.fit(END - 5 * DAY)
        return {
            str(file.parent.parent.name): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in workspace.config.data.rglob("encoder.npz")
        }

    one = market(tmp_path / "one", *LINES)
    other = market(tmp_path / "other", *LINES)
    act(other, *(f"{n},g-{n % 7},play,{END - 5 * DAY:%Y-%m-%d %H:%M:%S}" for n in range(40)))
    found = archives(one)
    assert set(found) == {"tfidf_svd", "co_actions", "trained"}
    assert archives(other) == found


def test_actions_are_folded_in_and_an_item_is_known_before_its_first(tmp_path: Path) -> None:
    workspace = market(tmp_path / "w", LINES[1], encoders=("TfidfSvd(version=1)", CO_ACTIONS))
    workspace.run(END - DAY)
    config = workspace.config.in_space(Space("co_actions", 1))
    archive = (config.layout.item_encoder(config.space) / "encoder.npz").read_bytes()
    with (workspace.root / "source" / "items.csv").open("a") as file:
        file.write("g-new,data engineer\n")
    workspace.run(END - DAY)
    before = vectors(config)
    # Without a column of when it was known, it counts as known since ever: so since the fit.
    ((_, since),) = [key for key in before if key[0] == "g-new"]
    assert since == fitted_until(config)
    midday = END - DAY / 2
    act(workspace, *(f"{n},g-new,play,{midday:%Y-%m-%d %H:%M:%S}" for n in range(0, 60, 2)))
    workspace.run(END)
    after = vectors(config)
    assert {key: after[key] for key in before} == before
    assert ("g-new", END) in after
    assert after["g-new", END] != before["g-new", since]
    assert (config.layout.item_encoder(config.space) / "encoder.npz").read_bytes() == archive
    # A backfill folds in what had been done by each of its days.
    workspace.backfill(END - 2 * DAY)
    added = vectors(config).keys() - after.keys()
    assert {at for _, at in added} <= {END - 2 * DAY}
    assert added
    # Before the end of the fit's data there is nothing to fold in.
    with pytest.raises(InputError, match="1 of 1 snapshots are left out"):
        workspace.backfill(END - 9 * DAY)
    assert vectors(config).keys() == added | after.keys()


def test_fold_in_can_be_left_out_to_measure_what_it_is_worth(tmp_path: Path) -> None:
    workspace = market(tmp_path / "w", LINES[1], encoders=("TfidfSvd(version=1)", CO_ACTIONS))
    with without_fold_in(END - 4 * DAY):
        workspace.run(END - DAY)
        config = workspace.config.in_space(Space("co_actions", 1))
        before = vectors(config)
        with (workspace.root / "source" / "items.csv").open("a") as file:
            file.write("g-new,data engineer\n")
        midday = END - DAY / 2
        act(workspace, *(f"{n},g-new,play,{midday:%Y-%m-%d %H:%M:%S}" for n in range(0, 60, 2)))
        workspace.run(END)
    assert {at for _, at in before} == {fitted_until(config)} == {END - 4 * DAY}
    assert vectors(config).keys() - before.keys() == {("g-new", END - 4 * DAY)}


def test_items_are_refreshed_between_two_runs(tmp_path: Path) -> None:
    workspace = market(tmp_path / "w", LINES[1], encoders=("TfidfSvd(version=1)", CO_ACTIONS))
    refresh = lambda: workspace.do(  # noqa: E731
        "items refresh", lambda stages: refresh_items(workspace.config, stages)
    )
    with pytest.raises(InputError, match="first: activity run"):
        refresh()
    workspace.run(END)
    with (workspace.root / "source" / "items.csv").open("a") as file:
        file.write("g-new,data engineer\n")
    refresh()
    config = workspace.config.in_space(Space("co_actions", 1))
    item = {"member_id": 3, "item_id": "g-new"}
    features = [f"{config.item_view}:embedding", "activity_match_decay_v1:cosine_play"]

    def online() -> list[float]:
        answer = workspace.store.get_online_features(features, [item]).to_dict()
        vector: list[float] = answer["embedding"][0]
        return vector

    by_text = online()
    assert by_text is not None
    # What members do is folded in, and a running service and stream take it over.
    lines = current_lines(config)
    stream = Vectors(config, lines, END, workspace.store)
    with RequestTime(config, workspace.store, lambda: lines) as requests:
        assert not requests.refresh()
        assert not stream.has_new_items()
        act(workspace, *(f"{n},g-new,play,{END:%Y-%m-%d %H:%M:%S}" for n in range(0, 60, 2)))
        refresh()
        assert online() != by_text
        assert requests.refresh()
        assert stream.has_new_items()
    # The next snapshot finds the later vectors online, and leaves them there.
    refreshed = online()
    workspace.run(END)
    assert online() == refreshed
    workspace.run(END + DAY)


def test_too_little_to_fit_is_said_and_the_rest_is_served(tmp_path: Path) -> None:
    workspace = market(tmp_path / "w", *LINES[:2], encoders=("TfidfSvd(version=1)", CO_ACTIONS))
    events = workspace.root / "source" / "events.csv"
    whole = events.read_text()
    events.write_text("\n".join(whole.splitlines()[:3]) + "\n")
    workspace.run(END)
    assert "co_actions_v1 is not fitted yet: " in workspace.said
    assert workspace.services() == ["ranker_average_v1"]
    events.write_text(whole)
    workspace.run(END)
    assert workspace.services() == ["ranker_average_v1", "ranker_decay_v1"]


def test_one_encoder_is_fitted_again_with_what_reads_it(tmp_path: Path) -> None:
    workspace = market(tmp_path / "w", *LINES[:2], encoders=("TfidfSvd(version=1)", CO_ACTIONS))
    workspace.run(END - DAY)
    workspace.fit(END - 2 * DAY, items="co_actions_v1")
    workspace.run(END)
    config = workspace.config
    assert {str(space) for space in Fits(config).spaces.values()} == {
        "tfidf_svd_v1",
        "co_actions_v1_f2",
    }
    assert [str(line) for line in lines_of(config)] == ["average_v1", "decay_v1_f2", "decay_v1"]
    with connect(config) as con:
        (said,) = _how_far(config, con, {n: Space(n[:-3], 1) for n in Fits(config).spaces}, END)
    assert said.startswith("co_actions_v1_f2 and co_actions_v1: aligned cosine 0.")
    with pytest.raises(InputError, match=r"--items: expected one of tfidf_svd_v1, co_actions_v1"):
        workspace.fit(END, items="word2vec_v1")


@pytest.mark.parametrize(
    ("encoders", "lines", "message"),
    [
        ((CO_ACTIONS,), ['Average(version=1, items="trained_v1")'], "one of co_actions_v1, as"),
        ((CO_ACTIONS, CO_ACTIONS), ["Average(version=1)"], "got co_actions_v1 twice"),
        (
            ('Given(name="e5", version=1, column="v")',),
            ["Average(version=1)"],
            r"name the column 'v', got none",
        ),
        (("1",), ["Average(version=1)"], r"expected ITEM_ENCODERS, a tuple of lines"),
    ],
)
def test_a_catalogue_that_cannot_be_is_refused(
    tmp_path: Path, encoders: tuple[str, ...], lines: list[str], message: str
) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.lines(*lines, encoders=encoders)
    with pytest.raises(InputError, match=message):
        catalogue_lines(workspace.config)


def test_the_nearest_items_under_every_encoder(served: Workspace) -> None:
    found = _neighbours(served.config, "g-2", 5)
    named = ("tfidf_svd_v1", "co_actions_v1", "trained_v1")
    assert [space for space, _, _ in found] == [f"{name}, cosine" for name in named]
    for _, title, near in found:
        assert title.startswith("g-2 ")
        assert len(near) == 5
        assert "g-2" not in [each.item for each in near]
    # Members stay in their field, so behaviour tells it.
    behaviour = [str(each.item) for each in found[1][2]]
    assert sum(int(item.removeprefix("g-")) % 2 == 0 for item in behaviour) >= 4
    with pytest.raises(InputError, match="expected an item with a vector in one of tfidf_svd_v1"):
        _neighbours(served.config, "g-none", 5)


def test_given_vectors_of_several_columns_are_a_space_each(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.setting("text: [title]", "embedding: [a, B2]")
    (workspace.root / "source" / "items.csv").write_text(
        "product,a,B2\n" + "".join(f'g-{n},"[{n + 1}, 1]","[1, {n + 2}]"\n' for n in range(6))
    )
    workspace.lines("Average(version=1)", 'Average(name="other", version=1, items="b2_v1")')
    assert [str(line) for line in encoder_lines(workspace.config)] == ["a_v1", "b2_v1"]
    workspace.run(END)
    found: dict[str, Any] = {
        service: workspace.online(service)["embedding"] for service in workspace.services()
    }
    assert found == {"ranker_average_v1": [2.0, 1.0], "ranker_other_v1": [1.0, 3.0]}
