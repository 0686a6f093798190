"""A line that is kept as int8 gives the same numbers on every path: those of its stored bytes."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from models.quantization import stored, to_int8
from models.spec import GeometricDecay, Packaged
from operations.fits import chosen, lines_of
from pipelines.export import arrays
from pipelines.report.data import member_map, shown_members
from pipelines.workspace import OpenWorkspace
from serving import publish
from serving.request.vectors import RequestTime
from serving.stream.bus.messages import decode, encode
from stores.read import Reader
from tests.worlds.events import Event
from tests.worlds.kinds import KINDS, each_kind
from tests.worlds.live import Live, midnight, past_events
from tests.worlds.workspace import DAY, END, Workspace
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError

DECAY = GeometricDecay(version=1, decay=0.8, stream=True)
SMALL = GeometricDecay(name="small", version=1, decay=0.8, stream=True, store="int8")
FIELDS = ("apply_embedding", "save_embedding", "dismiss_embedding")
MATCH = tuple(f"{one}_{field.split('_')[0]}" for one in ("cosine", "dot") for field in FIELDS)
NOBODY, NO_ITEM = 77_777, 99_999
STREAMED = (501, 502)
ITEMS = (1, 7, NO_ITEM)
Rows = dict[tuple[int, int], dict[str, Any]]


@pytest.fixture(params=each_kind())
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    kind = KINDS[request.param]
    online = {"type": kind.ours, **kind.options(request, tmp_path, None)}
    live = Live(tmp_path, json.dumps(online), (DECAY, SMALL))
    live.build(past_events(np.random.default_rng(3), 120, 12), midnight())
    yield live
    live.close()


def stream(live: Live) -> None:
    """Stream actions of two members that the snapshot does not know."""
    clock = midnight() + timedelta(minutes=30)
    updater = live.updater(clock=lambda: clock)
    updater.seeding = True  # nothing was streamed before
    events = [
        Event(member, 1 + (member + n) % 20, action, clock - timedelta(minutes=25 - n))
        for member in STREAMED
        for n, action in enumerate(("APPLY", "SAVE", "APPLY", "APPLY"))
    ]
    updater.apply([decode(live.config.rules, encode(*event[:4]), clock) for event in events])
    updater.log.close()
    updater.states.close()


def asked(members: list[int]) -> dict[str, list[int]]:
    pairs = [(member, item) for member in members for item in ITEMS]
    return {"member_id": [m for m, _ in pairs], "item_id": [i for _, i in pairs]}


def by_pair(ids: dict[str, list[int]], columns: dict[str, Any]) -> Rows:
    """Return (member, item) → feature → value, vectors as lists of Python's floats."""

    def plain(value: Any) -> Any:
        return value if value is None or np.isscalar(value) else np.asarray(value).tolist()

    names = (*FIELDS, *MATCH, "embedding", "n_apply")
    return {
        pair: {name: plain(columns[name][row]) for name in names}
        for row, pair in enumerate(zip(*ids.values(), strict=True))
    }


def ways(store: FeatureStore, service: str, members: list[int]) -> dict[str, Rows]:
    """Read a service as a ranker does, as arrays, and as a trainer does."""
    of, ids = store.get_feature_service(service), asked(members)
    frame = pd.DataFrame(ids)
    online = store.get_online_features(features=of, entity_rows=frame.to_dict("records"))
    with Reader(store, of) as reader:
        read = reader.read(ids)
    labels = frame.assign(event_timestamp=datetime.now(UTC) + DAY, row=range(len(frame)))
    joined = store.get_historical_features(
        entity_df=labels, features=of, filter_by_created_timestamp=True
    ).to_df()
    assert read["apply_embedding"].dtype == np.float32
    return {
        "feast": by_pair(ids, online.to_dict()),
        "reader": by_pair(ids, read.to_dict()),
        "join": by_pair(ids, joined.sort_values("row").reset_index().to_dict("list")),
    }


def test_every_path_gives_the_numbers_of_the_stored_bytes(live: Live) -> None:
    stream(live)
    store, config = live.store(), live.config
    of_batch = sorted(row["member_id"] for row in live.table(SMALL.view))
    members = [*of_batch, *STREAMED, NOBODY]
    floats = ways(store, DECAY.service, members)["feast"]
    small = ways(store, SMALL.service, members)
    assert small["reader"] == small["feast"]
    assert small["join"] == small["feast"]

    changed = 0
    for pair, row in small["feast"].items():
        before = floats[pair]
        assert row["n_apply"] == before["n_apply"]
        for field in FIELDS:
            if before[field] is None:
                assert pair[0] == NOBODY
                assert row[field] is None
                vector = np.zeros(config.dim)
            else:
                # Both lines are one formula, computed in one graph.
                (vector,) = stored(np.array([before[field]], np.float32), "int8")
                assert row[field] == vector.tolist()
                changed += row[field] != before[field]
            item = np.zeros(config.dim) if row["embedding"] is None else np.array(row["embedding"])
            dot, length = vector @ item, np.linalg.norm(vector) * np.linalg.norm(item)
            stem = field.removesuffix("_embedding")
            assert row[f"dot_{stem}"] == pytest.approx(dot, abs=1e-6)
            assert row[f"cosine_{stem}"] == pytest.approx(dot / length if length else 0, abs=1e-6)
    assert changed > 20  # or nothing was kept in a smaller form
    # Streamed, and no such action: zeros, as for a line of floats.
    assert small["feast"][STREAMED[0], 1]["dismiss_embedding"] == [0.0] * config.dim

    with RequestTime(config, store, lambda: live.aggregators) as requests:
        now = requests.embed(of_batch, as_of=midnight())
    for field in FIELDS:
        got = now.vectors[SMALL.view][field]
        assert (got == stored(now.vectors[DECAY.view][field], "int8")).all()
        # A number that is computed a last bit apart may round to the next step.
        online = np.array([small["feast"][member, 1][field] for member in of_batch])
        assert (np.abs(got - online).max(axis=1) <= np.abs(online).max(axis=1) / 127 + 1e-6).all()


def test_tables_and_store_hold_the_same_bytes_of_fixed_size(live: Live) -> None:
    stream(live)
    store, size = live.store(), live.config.dim + 4
    rows = [*live.table(SMALL.view), *live.offline_rows(SMALL.view)]
    floats = [*live.table(DECAY.view), *live.offline_rows(DECAY.view)]
    assert {row["member_id"] for row in rows} >= set(STREAMED)
    names = [f"stored_{field}" for field in FIELDS]
    online = store.get_online_features(
        features=[f"{SMALL.view}:{name}" for name in names],
        entity_rows=[{"member_id": row["member_id"]} for row in rows],
    ).to_dict()
    for field, name in zip(FIELDS, names, strict=True):
        kept = [row[field] for row in rows]
        assert {len(value) for value in kept} == {size}
        assert online[name] == kept
        exact = np.array([row[field] for row in floats], np.float32)
        assert kept == [row.tobytes() for row in to_int8(exact)]
    fields = {field.name: field for field in store.get_feature_view(SMALL.view).features}
    assert {str(fields[name].dtype) for name in names} == {"Bytes"}


PLAY = ("play_embedding", "dismiss_embedding")
LINE = 'GeometricDecay(name="small", version=1, decay=0.5, store="int8")'
FLOATS = 'GeometricDecay(name="small", version=1, decay=0.5)'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.lines("GeometricDecay(version=1, decay=0.5)", LINE)
    return workspace


def test_python_export_and_report_get_floats(workspace: Workspace) -> None:
    workspace.run(END)
    opened = OpenWorkspace(workspace.config)
    floats, small = opened.vectors("decay"), opened.vectors("small")
    assert small.schema == floats.schema
    for name in PLAY:
        exported = arrays(small)[name]
        assert exported.dtype == np.float32
        assert (exported == stored(arrays(floats)[name], "int8")).all()

    decay, line = chosen(workspace.config, None)
    with connect(workspace.config) as con:
        first, second = (
            member_map(workspace.config, con, END, one, size=50) for one in (decay, line)
        )
        assert first is not None
        assert second is not None
        assert second.x == pytest.approx(first.x, abs=0.02)
        for member in shown_members(workspace.config, con, END, [decay, line], nearest=1):
            for one, other in zip(member.nearest[:2], member.nearest[2:], strict=True):
                assert one.items[0].similarity == pytest.approx(other.items[0].similarity, abs=0.01)


def test_the_check_holds_size_and_finite_numbers(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(change: Any) -> None:
        def to_int8_wrongly(vectors: np.ndarray) -> np.ndarray:
            return change(to_int8(vectors))

        monkeypatch.setattr("models.quantization.to_int8", to_int8_wrongly)

    spoiled(lambda kept: kept[:, :-1].copy())
    with pytest.raises(RunFailedError, match="vectors have their dimensions"):
        workspace.run(END)
    spoiled(lambda kept: np.hstack([np.full((len(kept), 4), 0xFF, np.uint8), kept[:, 4:]]))
    with pytest.raises(RunFailedError, match="vectors are finite"):
        workspace.run(END)


def test_another_store_of_a_published_version_is_refused(workspace: Workspace) -> None:
    workspace.run(END)
    workspace.lines("GeometricDecay(version=1, decay=0.5)", FLOATS)
    with pytest.raises(InputError, match='store: packaged "int8", expected null'):
        workspace.run(END)
    with pytest.raises(InputError, match="packaged with store='int8', got store='float32'"):
        publish.apply(workspace.config, workspace.store)
    workspace.lines('GeometricDecay(version=1, decay=0.5, store="int8")', LINE)
    with pytest.raises(InputError, match='store: packaged null, expected "int8"'):
        workspace.run(END)
    # A new version lives beside it.
    workspace.lines(FLOATS.replace("version=1", "version=2"), LINE)
    workspace.run(END)
    assert workspace.online("ranker_small_v2")["n_actions"] == 13
    assert workspace.online("ranker_small_v1")["n_actions"] == 13


def test_a_package_that_was_never_used_is_made_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopped:
        stopped.setattr(publish, "apply", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workspace.run(END)
    workspace.lines("GeometricDecay(version=1, decay=0.5)", FLOATS)
    workspace.run(END)
    assert "small_v1 is made again" in workspace.said
    assert workspace.online("ranker_small_v1") == workspace.online("ranker_decay_v1")


def test_a_line_that_left_the_catalogue_is_served_as_it_was(workspace: Workspace) -> None:
    workspace.run(END - DAY)
    workspace.lines("GeometricDecay(version=1, decay=0.5)")
    workspace.run(END)
    (kept,) = (line for line in lines_of(workspace.config) if line.name == "small")
    assert isinstance(kept, Packaged)
    assert kept.stored_as(workspace.config) == "int8"
    floats, small = (workspace.online(f"ranker_{name}_v1") for name in ("decay", "small"))
    for name in PLAY:
        (expected,) = stored(np.array([floats[name]], np.float32), "int8")
        assert small[name] == expected.tolist()


def test_a_package_made_elsewhere_is_kept_as_its_manifest_says(workspace: Workspace) -> None:
    workspace.run(END)
    elsewhere = workspace.root / "elsewhere"
    shutil.copytree(lines_of(workspace.config)[1].artifact(workspace.config), elsewhere)
    manifest = json.loads((elsewhere / "manifest.json").read_text()) | {"name": "mine"}
    (elsewhere / "manifest.json").write_text(json.dumps(manifest))
    made = f'Packaged("{elsewhere}", name="mine", version=1)'
    workspace.lines("GeometricDecay(version=1, decay=0.5)", LINE, made)
    workspace.run(END)
    mine, small = (workspace.online(f"ranker_{name}_v1") for name in ("mine", "small"))
    assert mine == small

    line = Packaged(str(elsewhere), name="mine", version=1, store="int8")
    assert line.stored_as(workspace.config) == "int8"
    # Manifests of before: scales of the training members' vectors, and no word of a store.
    before = {key: value for key, value in manifest.items() if key != "store"}
    before["quantization"] = {"play_embedding": {"dtype": "int8", "offset": [0], "scale": [1]}}
    (elsewhere / "manifest.json").write_text(json.dumps(before))
    assert Packaged(str(elsewhere), name="mine", version=1).stored_as(workspace.config) == "float32"
    with pytest.raises(InputError, match=r"\"store\": 'int8'.*got 'float32'.*write_manifest"):
        line.stored_as(workspace.config)
    (elsewhere / "manifest.json").write_text(json.dumps(before | {"store": "int4"}))
    with pytest.raises(InputError, match="store: expected one of float32, int8, got int4"):
        line.stored_as(workspace.config)


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(InputError, match="store: expected 'float32' or 'int8', got 'int4'"):
        GeometricDecay(version=1, decay=0.5, store="int4")  # type: ignore[arg-type]
