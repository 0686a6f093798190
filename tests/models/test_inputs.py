"""Signs and attributes as further inputs: of a layer, a package, training and embedding."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.backend import tf
from models.embed import _pad, load_graph, together
from models.inputs import Category, Inputs, Number, asked_by
from models.layers.build import build
from models.layers.further import width
from models.packaging import differences, load, package
from models.sequences import ItemTable, Padded, pad
from models.spec import Average, Cnn, LearnedDecay, Packaged
from tests.worlds.events import AS_OF, configure
from transformations.config import Config
from transformations.errors import InputError
from transformations.rules import MISSING

LINE = LearnedDecay(version=1, signs=True, attributes=("dwell", "seen_on"))
FITTED = Inputs(True, {"dwell": Number(20.0, 10.0), "seen_on": Category(("feed", "mail"))})
NAN = float("nan")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return world(tmp_path)


def world(folder: Path, **settings: Any) -> Config:
    attributes = {
        "dwell": {"type": "number"},
        "seen_on": {"type": "category"},
        "note": {"type": "text"},
    }
    defaults: dict[str, Any] = {
        "events": {"attributes": attributes},
        "actions": {
            "APPLY": "positive",
            "VIEW": {"positive_if": "dwell >= 30", "negative_if": "dwell < 5"},
        },
        "dim": 2,
        "length": 4,
        "items": {"embedding": "vector"},
    }
    config = configure(folder, **(defaults | settings))
    # The repository's catalogue encodes text; one without encoders takes the given vectors.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catalog.py").write_text("AGGREGATORS = ()\n")
    config._root = folder
    return config


def sequences(dwell: list[float], seen_on: list[str]) -> pa.RecordBatch:
    """Return one member's sequence: an APPLY on item 1, then a VIEW each on items 2, 3 and 9."""
    times = [AS_OF - timedelta(days=day) for day in (4, 3, 2, 1)]
    return pa.RecordBatch.from_pylist(
        [
            {
                "item_ids": [1, 2, 9, 3],
                "actions": ["APPLY", "VIEW", "VIEW", "VIEW"],
                "event_timestamps": times,
                "dwell": dwell,
                "seen_on": seen_on,
            }
        ]
    )


def items() -> ItemTable:
    vectors = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    return ItemTable(pa.array([1, 2, 3]), vectors)


def tensors(further: Inputs, padded: Padded) -> dict[str, Any]:
    return {name: tf.constant(values) for name, values in further.arrays(padded).items()}


def test_what_the_actions_carry_becomes_arrays(config: Config) -> None:
    rows = sequences([NAN, 40.0, 50.0, 3.0], ["mail", MISSING, "feed", "push"])
    padded = pad(rows, items(), config.rules, AS_OF)
    arrays = FITTED.arrays(padded)
    # Item 9 has no vector, so its slot is PAD and 0 in each of them.
    assert padded.actions.tolist() == [[1, 2, 0, 2]]
    assert arrays["signs"].tolist() == [[1, 1, 0, -1]]
    np.testing.assert_array_equal(arrays["dwell"], np.float32([[NAN, 40.0, 0.0, 3.0]]))
    assert arrays["seen_on"].tolist() == [[3, 0, 0, 1]]
    assert {name: values.dtype.name for name, values in arrays.items()} == {
        "signs": "int32",
        "dwell": "float32",
        "seen_on": "int32",
    }
    assert width(FITTED) == 2 + 2 + 4


def test_a_sequence_of_before_an_attribute_lacks_it(config: Config) -> None:
    rows = sequences([1.0] * 4, ["a"] * 4).select(["item_ids", "actions", "event_timestamps"])
    arrays = FITTED.arrays(pad(rows, items(), config.rules, AS_OF))
    np.testing.assert_array_equal(arrays["dwell"], np.float32([[NAN, NAN, 0, NAN]]))
    assert arrays["seen_on"].tolist() == [[0, 0, 0, 0]]
    assert arrays["signs"].tolist() == [[1, 0, 0, 0]]


def test_a_package_has_them_as_inputs_and_keeps_their_statistics(config: Config) -> None:
    model = build(LINE, config, FITTED)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
    package(LINE, config, trained=model)
    loaded = load(LINE, config)
    assert loaded.further == FITTED
    assert differences(LINE, config) == []

    def vector(dwell: float, seen_on: str) -> list[float]:
        rows = sequences([NAN, dwell, 7.0, 3.0], [MISSING, seen_on, MISSING, MISSING])
        padded = pad(rows, items(), config.rules, AS_OF)
        (fields,) = together([loaded], items(), config.rules)(padded)
        inputs = {
            "item_embeddings": tf.gather(items().vectors, padded.rows),
            "actions": tf.constant(padded.actions),
            "ages": tf.constant(padded.ages),
            **tensors(FITTED, padded),
        }
        np.testing.assert_allclose(
            fields["activity_embedding"],
            model(inputs)["activity_embedding"].numpy(),
            rtol=1e-5,
            atol=1e-6,
        )
        return [round(value, 6) for value in fields["activity_embedding"][0].tolist()]

    base = vector(20.0, "feed")
    assert vector(40.0, "feed") != base
    assert vector(20.0, "mail") != base
    assert vector(NAN, "feed") != base
    assert vector(20.0, "never seen") == vector(20.0, "nor this")


def test_a_new_decay_does_not_change_by_what_it_reads(config: Config) -> None:
    """Its gates begin at zero."""
    padded = pad(sequences([1.0, 2.0, 3.0, NAN], ["a"] * 4), items(), config.rules, AS_OF)
    inputs = {
        "item_embeddings": tf.gather(items().vectors, padded.rows),
        "actions": tf.constant(padded.actions),
        "ages": tf.constant(padded.ages),
    }
    plain = build(LearnedDecay(version=1), config)(inputs)["activity_embedding"].numpy()
    with_more = build(LINE, config, FITTED)(inputs | tensors(FITTED, padded))
    np.testing.assert_allclose(with_more["activity_embedding"].numpy(), plain, atol=1e-7)


def test_a_slot_wise_layer_sees_them(config: Config) -> None:
    line = Cnn(version=1, attributes=("dwell",), dropout=0.0)
    further = Inputs(False, {"dwell": Number(20.0, 10.0)})
    model = build(line, config, further)

    def vector(dwell: float) -> Any:
        rows = sequences([NAN, dwell, 7.0, 3.0], ["a"] * 4)
        padded = pad(rows, items(), config.rules, AS_OF)
        inputs = {
            "item_embeddings": tf.gather(items().vectors, padded.rows),
            "actions": tf.constant(padded.actions),
            "ages": tf.constant(padded.ages),
        }
        return model(inputs | tensors(further, padded))["activity_embedding"].numpy()

    assert np.isfinite(vector(NAN)).all()
    assert not np.allclose(vector(20.0), vector(60.0))


def test_a_line_that_reads_some_actions_sees_no_others(config: Config) -> None:
    padded = pad(sequences([NAN] * 4, [MISSING] * 4), items(), config.rules, AS_OF)
    package(reads := Average(version=1, reads=("VIEW",)), config)
    (fields,) = together([load(reads, config)], items(), config.rules)(padded)
    # Of the three views, item 9 has no vector.
    assert {name: values.tolist() for name, values in fields.items()} == {
        "view_embedding": [[0.5, 1.0]]
    }
    assert differences(Average(version=1), config) == [
        (
            '  vectors: packaged {"view_embedding": 2}, expected {"apply_embedding": 2, '
            '"view_embedding": 2}'
        ),
        '  reads: packaged ["VIEW"], expected null',
    ]


def test_another_rule_of_signs_is_another_definition(tmp_path: Path, config: Config) -> None:
    line = LearnedDecay(version=1, signs=True)
    package(line, config, trained=build(line, config))
    other = world(tmp_path, actions={"APPLY": "positive", "VIEW": {"positive_if": "dwell >= 31"}})
    with pytest.raises(InputError, match=r"signs: packaged .*dwell >= 30"):
        load(line, other)
    made_elsewhere = Packaged(str(line.artifact(config)), name="learned_decay", version=1)
    with pytest.raises(InputError, match=r"signs: packaged .*dwell >= 30"):
        load(made_elsewhere, other)


@pytest.mark.parametrize("name", ["note", "price"])
def test_what_cannot_be_read_is_named(config: Config, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}.*: dwell, seen_on"):
        asked_by(replace(LINE, attributes=(name,)), config)


def test_a_package_that_reads_what_is_not_configured(tmp_path: Path, config: Config) -> None:
    package(LINE, config, trained=build(LINE, config, FITTED))
    # As one that came from elsewhere, whose settings the catalogue does not say.
    line = Packaged(str(LINE.artifact(config)), name="learned_decay", version=1)
    other = world(tmp_path, events={"attributes": {"dwell": {"type": "number"}}})
    with pytest.raises(InputError, match="reads the attribute 'seen_on', a category"):
        load(line, other)


def test_a_daily_batch_reads_them_also_beside_older_snapshots(config: Config) -> None:
    """A snapshot of before an attribute has no list of it: missing, in the same group of rows."""
    rows = sequences([NAN, 40.0, 50.0, 3.0], ["mail", MISSING, "feed", "push"])
    at = pa.array([AS_OF], pa.timestamp("us", tz="UTC"))
    rows = rows.append_column("event_timestamp", at)
    older = rows.select(["item_ids", "actions", "event_timestamps", "event_timestamp"])
    package(LINE, config, trained=build(LINE, config, FITTED))
    other = Cnn(version=1, attributes=("dwell",))
    package(other, config, trained=build(other, config))
    graph = load_graph([LINE, other], config)

    class AnyTime:
        def at(self, timestamps: Any) -> ItemTable:  # noqa: ARG002
            return items()

    padded = _pad([(0, older), (1, rows)], AnyTime(), config.rules, graph)  # type: ignore[arg-type]
    arrays = FITTED.arrays(padded)
    assert arrays["signs"].tolist() == [[1, 0, 0, 0], [1, 1, 0, -1]]
    np.testing.assert_array_equal(
        arrays["dwell"], np.float32([[NAN, NAN, 0, NAN], [NAN, 40.0, 0.0, 3.0]])
    )
    assert arrays["seen_on"].tolist() == [[0, 0, 0, 0], [3, 0, 0, 1]]
    _, of_cnn = graph.vectors(padded, tf.constant(items().vectors))
    assert not np.allclose(*of_cnn["activity_embedding"])
