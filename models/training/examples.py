"""Training examples as arrays and as a stream of batches; the model gathers their vectors.

A file's rows are shuffled, so a row group is a random sample. An epoch that reads the groups in a
new order and shuffles each one needs no more memory than one group.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.backend import tf
from models.inputs import NOTHING, Inputs
from models.packaging import specs
from models.sequences import ItemTable, pad
from transformations.config import Config
from transformations.examples import RANDOM_NEGATIVE, input_actions
from transformations.timestamps import microseconds

# Files whose arrays take at most this many bytes are read once and kept; larger ones are read again
# in every epoch.
KEPT_BYTES = 512 * 2**20
ROWS_AT_ONCE = 32_768
BATCHES_AHEAD = 32

COLUMNS = [
    "as_of",
    "item_ids",
    "actions",
    "event_timestamps",
    "label_item_id",
    "label_action",
    "label_timestamp",
    "happened_at",
    "is_positive",
    "is_random",
    "weight",
]

Between = tuple[datetime, datetime]


@dataclass(frozen=True)
class ExampleArrays:
    """Examples of equal length, padded on the left as in models.sequences.Padded.

    Attributes:
        rows: Rows of the item table, int32 [examples, length]; 0 in a PAD slot.
        actions: Codes, int32 [examples, length]; 0 is PAD. Random negatives in inputs have the
            codes of `transformations.examples.input_actions`.
        ages: Days before the window's end, float32 [examples, length]; 0 in a PAD slot.
        label_rows: Rows of the item table, int32 [examples]; never 0.
        label_actions: Codes, int32 [examples]; a random negative has its positive's.
        positive: bool [examples].
        random: bool [examples].
        weight: float32 [examples].
        label_timestamps: Microseconds since 1970, int64 [examples].
        happened_at: The same, but a random negative has its positive's.
        further: What the line reads besides, by name [examples, length] (models/inputs.py).
        n_without_vector: Examples dropped because the label's item has no vector.
    """

    rows: NDArray[np.int32]
    actions: NDArray[np.int32]
    ages: NDArray[np.float32]
    label_rows: NDArray[np.int32]
    label_actions: NDArray[np.int32]
    positive: NDArray[np.bool_]
    random: NDArray[np.bool_]
    weight: NDArray[np.float32]
    label_timestamps: NDArray[np.int64]
    happened_at: NDArray[np.int64]
    further: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    n_without_vector: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Any) -> "ExampleArrays":
        """Return the chosen examples: indices, a mask or a slice."""
        further = {name: values[chosen] for name, values in self.further.items()}
        arrays = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        return ExampleArrays(**arrays, further=further)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the inputs of a training step."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return tensors | ({"further": dict(self.further)} if self.further else {})


_ARRAYS = tuple(
    f.name for f in fields(ExampleArrays) if f.name not in ("further", "n_without_vector")
)
_TENSORS = tuple(name for name in _ARRAYS if name != "label_timestamps")


def read(
    file: Path,
    items: ItemTable,
    config: Config,
    where: Between | None = None,
    further: Inputs = NOTHING,
) -> ExampleArrays:
    """Read the examples whose label happened in [from, until), all of them into memory.

    A random negative stays with its positive, even if its own timestamp was moved out of `where`.

    Raises:
        RunFailedError: an example is longer than the configured length, or has an action that is
            not configured.
    """
    with pq.ParquetFile(file) as examples:
        parts = [
            _arrays(batch, items, config, further)
            for batch in examples.iter_batches(ROWS_AT_ONCE, columns=_columns(examples, config))
        ]
    whole = _joined(parts, config, further)
    return whole if where is None else whole.take(_inside(whole, where))


def dataset(
    file: Path,
    items: ItemTable,
    config: Config,
    batch_size: int,
    seed: int,
    between: Between | None = None,
    only_positive: bool = False,
    with_random: bool = True,
    further: Inputs = NOTHING,
) -> Any:
    """Return a tf.data.Dataset of batches: dicts of ExampleArrays' arrays, by name.

    label_timestamps is left out; the last batch of an epoch may be smaller. Each epoch has its own
    order, which follows from `seed` and the epoch's number. Batches are read ahead while the model
    computes.

    Args:
        file: What `build_training_examples` wrote.
        between: Only labels that happened in [from, until).
        only_positive: Leave out negatives, random ones included.
        with_random: Whether random negatives are among the examples.
        further: What the line reads besides; the batches hold it by name under `further`.
    """

    def wanted(examples: ExampleArrays) -> NDArray[np.bool_]:
        kept = examples.positive if only_positive else with_random | ~examples.random
        return kept if between is None else kept & _inside(examples, between)

    epoch = 0

    def batches() -> Iterator[dict[str, NDArray[Any]]]:
        nonlocal epoch
        rng = np.random.default_rng([seed, epoch])
        epoch += 1
        chunks = _chunks(file, items, config, rng, further)
        left = _joined([], config, further)
        for examples in _shuffled(chunks, wanted, batch_size * BATCHES_AHEAD, left, rng):
            for start in range(0, len(examples), batch_size):
                yield examples.take(slice(start, start + batch_size)).tensors()

    matrix, column = (None, config.length), (None,)
    signature: dict[str, Any] = {
        "rows": tf.TensorSpec(matrix, tf.int32),
        "actions": tf.TensorSpec(matrix, tf.int32),
        "ages": tf.TensorSpec(matrix, tf.float32),
        "label_rows": tf.TensorSpec(column, tf.int32),
        "label_actions": tf.TensorSpec(column, tf.int32),
        "positive": tf.TensorSpec(column, tf.bool),
        "random": tf.TensorSpec(column, tf.bool),
        "weight": tf.TensorSpec(column, tf.float32),
        "happened_at": tf.TensorSpec(column, tf.int64),
    }
    if further:
        signature["further"] = specs(further.shapes(config.length))
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.prefetch(BATCHES_AHEAD)


def _shuffled(
    chunks: Iterator[ExampleArrays],
    wanted: Callable[[ExampleArrays], NDArray[np.bool_]],
    size: int,
    left: ExampleArrays,
    rng: np.random.Generator,
) -> Iterator[ExampleArrays]:
    """Yield each chunk's wanted examples in random order, `size` at once; fewer only at the end.

    `left` is empty at first.
    """
    for chunk in chunks:
        if len(left):
            chunk = _concatenated([left, chunk.take(wanted(chunk))])
            order = rng.permutation(len(chunk))
        else:
            order = np.flatnonzero(wanted(chunk))
            rng.shuffle(order)
        whole = len(order) - len(order) % size
        for start in range(0, whole, size):
            yield chunk.take(order[start : start + size])
        left = chunk.take(order[whole:])
    if len(left):
        yield left


# Item table → its examples, so they are kept no longer than the table.
_KEPT: WeakKeyDictionary[ItemTable, tuple[Any, ExampleArrays]] = WeakKeyDictionary()


def _chunks(
    file: Path, items: ItemTable, config: Config, rng: np.random.Generator, further: Inputs
) -> Iterator[ExampleArrays]:
    """Yield a file's examples: all at once if they may be kept, else row group by row group."""
    with pq.ParquetFile(file) as examples:
        if examples.metadata.num_rows * _bytes_of_one(config, further) > KEPT_BYTES:
            for number in rng.permutation(examples.num_row_groups):
                yield _group(examples, int(number), items, config, further)
            return
    state = file.stat()
    made_of = (config.length, tuple(config.actions), repr(further))
    key = (file, state.st_mtime_ns, state.st_size, *made_of)
    if items not in _KEPT or _KEPT[items][0] != key:
        _KEPT[items] = (key, read(file, items, config, further=further))
    yield _KEPT[items][1]


def _bytes_of_one(config: Config, further: Inputs) -> int:
    return (12 + 4 * len(further.shapes(config.length))) * config.length + 32


def _columns(file: pq.ParquetFile, config: Config) -> list[str]:
    return [
        *COLUMNS,
        *(name for name in config.rules.attributes if name in file.schema_arrow.names),
    ]


def _group(
    file: pq.ParquetFile, number: int, items: ItemTable, config: Config, further: Inputs
) -> ExampleArrays:
    batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=_columns(file, config))
    arrays = [_arrays(batch, items, config, further) for batch in batches]
    return _joined(arrays, config, further)


def _inside(examples: ExampleArrays, where: Between) -> NDArray[np.bool_]:
    start, end = map(microseconds, where)
    return (examples.happened_at >= start) & (examples.happened_at < end)


def _arrays(
    batch: pa.RecordBatch, items: ItemTable, config: Config, further: Inputs
) -> ExampleArrays:
    label_rows = items.rows(batch["label_item_id"])
    has_vector = label_rows != 0
    if not has_vector.all():
        batch = batch.filter(pa.array(has_vector))
    names = input_actions(config, random_negatives=True)
    padded = pad(batch, items, config.rules, batch["as_of"], names)
    labels = [*config.actions, *(RANDOM_NEGATIVE + action for action in config.actions)]
    indices = pc.index_in(batch["label_action"], value_set=pa.array(labels)).to_numpy()
    return ExampleArrays(
        rows=padded.rows,
        actions=padded.actions,
        ages=padded.ages,
        label_rows=label_rows[has_vector],
        label_actions=(indices % len(config.actions) + 1).astype(np.int32),
        positive=_booleans(batch["is_positive"]),
        random=_booleans(batch["is_random"]),
        weight=batch["weight"].to_numpy(),
        label_timestamps=batch["label_timestamp"].cast(pa.int64()).to_numpy(),
        happened_at=batch["happened_at"].cast(pa.int64()).to_numpy(),
        further=further.arrays(padded),
        n_without_vector=int(len(has_vector) - has_vector.sum()),
    )


def _booleans(values: pa.Array) -> NDArray[np.bool_]:
    return values.to_numpy(zero_copy_only=False)


def _joined(parts: Sequence[ExampleArrays], config: Config, further: Inputs) -> ExampleArrays:
    """Concatenate examples; without any, return empty ones."""
    if not parts:
        matrix, column = (0, config.length), (0,)
        return ExampleArrays(
            rows=np.zeros(matrix, np.int32),
            actions=np.zeros(matrix, np.int32),
            ages=np.zeros(matrix, np.float32),
            label_rows=np.zeros(column, np.int32),
            label_actions=np.zeros(column, np.int32),
            positive=np.zeros(column, np.bool_),
            random=np.zeros(column, np.bool_),
            weight=np.zeros(column, np.float32),
            label_timestamps=np.zeros(column, np.int64),
            happened_at=np.zeros(column, np.int64),
            further={
                name: np.zeros((0, *shape), dtype)
                for name, (dtype, shape) in further.shapes(config.length).items()
            },
        )
    return _concatenated(parts)


def _concatenated(parts: Sequence[ExampleArrays]) -> ExampleArrays:
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    further = {
        name: np.concatenate([part.further[name] for part in parts]) for name in parts[0].further
    }
    return ExampleArrays(
        **arrays, further=further, n_without_vector=sum(part.n_without_vector for part in parts)
    )
