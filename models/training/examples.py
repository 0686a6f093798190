"""Training examples as arrays and as a stream of batches; their vectors are gathered by the model.

A file's rows are shuffled already. So a row group of it is a random sample, and a pass that reads
the groups in a new order and shuffles each one needs no more memory than one group.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.backend import tf
from models.sequences import PAD, ItemTable, pad
from transformations.config import Config
from transformations.examples import RANDOM_NEGATIVE, input_actions

# Files whose arrays take at most so many bytes are read once and kept; larger ones are read anew
# in every pass.
KEPT_BYTES = 512 * 2**20
ROWS_AT_ONCE = 32_768
BATCHES_AHEAD = 32
DAY = timedelta(days=1)

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
        actions: Codes, int32 [examples, length]; 0 is PAD. Random negatives that entered inputs
            have those of `transformations.examples.input_actions`.
        ages: Days before the window's end, float32 [examples, length]; 0 in a PAD slot.
        label_rows: Rows of the item table, int32 [examples]; never 0.
        label_actions: Codes, int32 [examples]; a random negative's is its positive's.
        positive: bool [examples].
        random: bool [examples].
        weight: float32 [examples].
        label_timestamps: Microseconds since 1970, int64 [examples].
        happened_at: The same, but a random negative's is its positive's.
        n_without_vector: Examples that were dropped because the label's item has no vector.
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
    n_without_vector: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Any) -> "ExampleArrays":
        """Return the examples at `places`: indices, a mask or a slice."""
        return ExampleArrays(*(getattr(self, name)[places] for name in _ARRAYS))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what a training step is given."""
        return {name: getattr(self, name) for name in _TENSORS}


_ARRAYS = tuple(f.name for f in fields(ExampleArrays) if f.name != "n_without_vector")
_TENSORS = tuple(name for name in _ARRAYS if name != "label_timestamps")


def read(
    file: Path, items: ItemTable, config: Config, where: Between | None = None
) -> ExampleArrays:
    """Read the examples whose label happened in [from, until), all of them into memory.

    A random negative goes with its positive, also where its own time was moved out of `where`.

    Raises:
        RunFailedError: an example is longer than the configured length, or has an action that the
            configuration does not name.
    """
    with pq.ParquetFile(file) as examples:
        parts = [
            _arrays(batch, items, config)
            for batch in examples.iter_batches(ROWS_AT_ONCE, columns=COLUMNS)
        ]
    whole = _joined(parts, config)
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
    shuffle_within_sessions: timedelta | None = None,
) -> Any:
    """Return a tf.data.Dataset of batches: dicts of what ExampleArrays holds, by its names.

    Its tensors are those of ExampleArrays without label_timestamps; the last batch of a pass may
    be smaller. Each pass over it has an order of its own, which follows from `seed` and from how
    many passes there were. It is read ahead while the model computes.

    Args:
        file: What `build_training_examples` wrote.
        between: Only labels that happened in [from, until).
        only_positive: Leave out negatives, random ones too.
        with_random: Whether random negatives are among the examples.
        shuffle_within_sessions: Actions of an input less than this apart share a session, and
            change places in it at random, since a list of jobs is seen at once; the ages of the
            places stay. None leaves them in order.
    """

    def wanted(piece: ExampleArrays) -> NDArray[np.bool_]:
        kept = piece.positive if only_positive else with_random | ~piece.random
        return kept if between is None else kept & _inside(piece, between)

    passes = 0

    def batches() -> Iterator[dict[str, NDArray[Any]]]:
        nonlocal passes
        rng = np.random.default_rng([seed, passes])
        passes += 1
        pieces = _pieces(file, items, config, rng)
        for part in _shuffled(pieces, wanted, batch_size * BATCHES_AHEAD, config, rng):
            if shuffle_within_sessions is not None:
                part = shuffled_within_sessions(part, shuffle_within_sessions, rng)
            for start in range(0, len(part), batch_size):
                yield part.take(slice(start, start + batch_size)).tensors()

    matrix, column = (None, config.length), (None,)
    signature = {
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
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.prefetch(BATCHES_AHEAD)


def session_index(
    ages: NDArray[np.float32], actions: NDArray[np.int32], gap_days: float
) -> NDArray[np.int32]:
    """Return each action's session: 1 for the oldest of its row, 0 in a PAD slot; as `ages`.

    An action at least `gap_days` after the one before it, PAD in between left out, starts a new
    session.

    >>> ages = np.array([[0, 9, 5, 0, 4.99]], np.float32)
    >>> session_index(ages, np.array([[0, 1, 1, 0, 2]], np.int32), gap_days=0.02)
    array([[0, 1, 2, 0, 2]], dtype=int32)
    """
    used = actions != PAD
    # The age of the newest action so far; ages only fall.
    so_far = np.minimum.accumulate(np.where(used, ages, np.inf), axis=1)
    before = np.concatenate([np.full((len(ages), 1), np.inf, so_far.dtype), so_far[:, :-1]], axis=1)
    starts = used & (before - ages >= gap_days)
    return np.where(used, np.cumsum(starts, axis=1), 0).astype(np.int32)


def shuffled_within_sessions(
    examples: ExampleArrays, gap: timedelta, rng: np.random.Generator
) -> ExampleArrays:
    """Let the actions of each session change places at random; ages and PAD stay in theirs."""
    sessions = session_index(examples.ages, examples.actions, gap / DAY)
    # Sorted by session and then at random, PAD first. PAD that lies between actions stays there.
    source = np.argsort(sessions + rng.random(sessions.shape, np.float32) * (sessions > 0), axis=1)
    target = np.argsort(sessions > 0, axis=1, kind="stable")
    moved = {}
    for name in ("rows", "actions"):
        values = getattr(examples, name)
        moved[name] = np.empty_like(values)
        np.put_along_axis(moved[name], target, np.take_along_axis(values, source, 1), 1)
    return replace(examples, **moved)


def _shuffled(
    pieces: Iterator[ExampleArrays],
    wanted: Callable[[ExampleArrays], NDArray[np.bool_]],
    size: int,
    config: Config,
    rng: np.random.Generator,
) -> Iterator[ExampleArrays]:
    """Yield the wanted examples of each piece at random, `size` at once; fewer only at the end."""
    left = _joined([], config)
    for piece in pieces:
        if len(left):
            piece = _joined([left, piece.take(wanted(piece))], config)
            places = rng.permutation(len(piece))
        else:
            places = np.flatnonzero(wanted(piece))
            rng.shuffle(places)
        whole = len(places) - len(places) % size
        for start in range(0, whole, size):
            yield piece.take(places[start : start + size])
        left = piece.take(places[whole:])
    if len(left):
        yield left


# Item table → its examples, so that they are kept no longer than the table is.
_KEPT: WeakKeyDictionary[ItemTable, tuple[Any, ExampleArrays]] = WeakKeyDictionary()


def _pieces(
    file: Path, items: ItemTable, config: Config, rng: np.random.Generator
) -> Iterator[ExampleArrays]:
    """Yield a file's examples: the whole if it may be kept, else row group by row group."""
    with pq.ParquetFile(file) as examples:
        if examples.metadata.num_rows * _bytes_of_one(config) > KEPT_BYTES:
            for number in rng.permutation(examples.num_row_groups):
                yield _group(examples, int(number), items, config)
            return
    state = file.stat()
    key = (file, state.st_mtime_ns, state.st_size, config.length, tuple(config.actions))
    if items not in _KEPT or _KEPT[items][0] != key:
        _KEPT[items] = (key, read(file, items, config))
    yield _KEPT[items][1]


def _bytes_of_one(config: Config) -> int:
    return 12 * config.length + 32


def _group(file: pq.ParquetFile, number: int, items: ItemTable, config: Config) -> ExampleArrays:
    batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=COLUMNS)
    return _joined([_arrays(batch, items, config) for batch in batches], config)


def _inside(examples: ExampleArrays, where: Between) -> NDArray[np.bool_]:
    start, end = (pa.scalar(moment, pa.timestamp("us", tz="UTC")).value for moment in where)
    return (examples.happened_at >= start) & (examples.happened_at < end)


def _arrays(batch: pa.RecordBatch, items: ItemTable, config: Config) -> ExampleArrays:
    label_rows = items.rows(batch["label_item_id"])
    known = label_rows != 0
    if not known.all():
        batch = batch.filter(pa.array(known))
    names = input_actions(config, random_negatives=True)
    padded = pad(batch, items, config.rules, batch["as_of"], names)
    labels = [*config.actions, *(RANDOM_NEGATIVE + action for action in config.actions)]
    places = pc.index_in(batch["label_action"], value_set=pa.array(labels)).to_numpy()
    return ExampleArrays(
        rows=padded.rows,
        actions=padded.actions,
        ages=padded.ages,
        label_rows=label_rows[known],
        label_actions=(places % len(config.actions) + 1).astype(np.int32),
        positive=_booleans(batch["is_positive"]),
        random=_booleans(batch["is_random"]),
        weight=batch["weight"].to_numpy(),
        label_timestamps=batch["label_timestamp"].cast(pa.int64()).to_numpy(),
        happened_at=batch["happened_at"].cast(pa.int64()).to_numpy(),
        n_without_vector=int(len(known) - known.sum()),
    )


def _booleans(values: pa.Array) -> NDArray[np.bool_]:
    return values.to_numpy(zero_copy_only=False)


def _joined(parts: Sequence[ExampleArrays], config: Config) -> ExampleArrays:
    """Return the parts as one; without any, no examples."""
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
        )
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return ExampleArrays(**arrays, n_without_vector=sum(part.n_without_vector for part in parts))
