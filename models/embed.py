"""Every aggregator's vectors of snapshots, in one pass over their sequences."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.backend import tf
from models.item_versions import ItemVersions
from models.lines import by_space
from models.packaging import Loaded, load, specs
from models.quantization import stored
from models.sequences import ItemTable, Padded, carried_values, pad
from models.spec import Aggregator
from models.view_files import Group, Vectors, ViewWriters, check_view
from transformations.config import Config
from transformations.errors import InputError
from transformations.last_actions import Snapshot
from transformations.layout import bucket_in, part_files, partition, rows_read, snapshot_files
from transformations.rules import Rules
from transformations.seals import sealing
from transformations.snapshots import (
    Unfinished,
    Written,
    attempts,
    finished,
    replacing_snapshot,
)
from transformations.tables import SNAPSHOTS_AT_ONCE, of_member, view_of_partitions
from transformations.tasks import Engine

# Members that are read and written at once; and members per call of the models, whose item vectors
# (length * dim floats each) should fit into the processor's cache.
ROWS_AT_ONCE = 32_768
BATCH = 2_048


@dataclass(frozen=True)
class EmbedReport:
    """What was read and written.

    Attributes:
        members: Rows of the snapshots, lapsed members included.
        actions: Actions in all of their sequences.
        actions_without_vector: Those whose item had no vector in this encoder version.
        items: Items that had a vector at the last as_of.
        rows: View → rows written.
    """

    members: int
    actions: int
    actions_without_vector: int
    items: int
    rows: dict[str, int]

    @property
    def share_without_vector(self) -> float:
        """Share of the actions whose item had no vector; 0 without actions."""
        return self.actions_without_vector / self.actions if self.actions else 0.0


class Graph:
    """Packaged aggregators in one graph, so item vectors are gathered once for all of them.

    It is traced once for any item table, so many snapshots can share it.
    """

    def __init__(self, models: Sequence[Loaded], rules: Rules) -> None:
        self.models = models
        shape = (None, rules.length)
        signature = [tf.TensorSpec((None, rules.dim), "float32")]
        signature += [tf.TensorSpec(shape, dtype) for dtype in ("int32", "int32", "float32")]
        more = [specs(model.further.shapes(rules.length)) for model in models]

        @tf.function(input_signature=[*signature, more])
        def embed(
            table: Any, rows: Any, actions: Any, ages: Any, further: list[dict[str, Any]]
        ) -> list[dict[str, Any]]:
            vectors = tf.gather(table, rows)
            return [
                model.embed(item_embeddings=vectors, actions=actions, ages=ages, **own)
                for model, own in zip(models, further, strict=True)
            ]

        self._embed = embed

    def vectors(self, padded: Padded, table: Any) -> list[Vectors]:
        """Return each model's vectors {field: [members, dim]}, before they are kept.

        Args:
            table: The item vectors as a tensor, float32 [items + 1, dim].
        """
        members = len(padded.rows)
        results = [
            {field: np.empty((members, dim), np.float32) for field, dim in model.vectors.items()}
            for model in self.models
        ]
        further = [model.further.arrays(padded) for model in self.models]
        for start in range(0, members, BATCH):
            batch = slice(start, start + BATCH)
            own = [{name: values[batch] for name, values in each.items()} for each in further]
            outputs = self._embed(
                table, padded.rows[batch], padded.actions[batch], padded.ages[batch], own
            )
            for result, output in zip(results, outputs, strict=True):
                for field, vectors in result.items():
                    vectors[batch] = output[field].numpy()
        return results


def embed_snapshot(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    created_timestamp: datetime,
    aggregators: Sequence[Aggregator],
    progress: Callable[[int], object] | None = None,
    graph: Graph | None = None,
    engine: Engine | None = None,
) -> EmbedReport:
    """Write the member_embeddings partition of `as_of` of every aggregator, whole or not at all.

    As `embed_snapshots` for the one snapshot.
    """
    # A previous as_of matters to sequences only.
    snapshot = Snapshot(as_of, as_of - timedelta(days=1), created_timestamp)
    return embed_snapshots(config, con, [snapshot], aggregators, progress, graph, engine)


def embed_snapshots(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    snapshots: Sequence[Snapshot],
    aggregators: Sequence[Aggregator],
    progress: Callable[[int], object] | None = None,
    graph: Graph | None = None,
    engine: Engine | None = None,
) -> EmbedReport:
    """Write the member_embeddings partitions of every snapshot and aggregator, whole or not at all.

    Reads the member_sequences partitions and, for each row, the item vectors that were available
    at its as_of. An item without a vector counts in n_actions and is PAD to the aggregators. Memory
    holds the item vectors of all as_ofs and ROWS_AT_ONCE members, however many there are. Of
    SNAPSHOTS_AT_ONCE snapshots, no partition becomes visible before all are written and checked.

    Args:
        snapshots: In any order, at least one.
        aggregators: They may read several item spaces; those of one space share a pass.
        progress: Called with the number of members that were embedded since its last call, once for
            each item space.
        graph: The aggregators, loaded, of one space; whoever calls this often loads and traces
            them once.
        engine: Who embeds where the sequences lie in buckets; default: this process.

    Returns:
        What all of them wrote, added up; what was seen is that of the first aggregator's space.

    Raises:
        InputError: an aggregator is not packaged, or differs from the catalogue or configuration;
            there is no snapshot or no item vector to embed.
        RunFailedError: a result breaks a rule of checks/member_embeddings.sql.
    """
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.as_of)
    folder = config.layout.sequences
    for as_of in (snapshot.as_of for snapshot in ordered):
        if not snapshot_files(folder, as_of):
            place = partition(folder, as_of)
            raise InputError(f"expected the sequences of {as_of} in {place}, found none")
    between = ordered[0].as_of, ordered[-1].as_of
    reports = [
        _embed_space(own, con, ordered, lines, between, progress, graph, engine)
        for own, lines in by_space(config, aggregators)
    ]
    return _together(reports)


def embed_rows_read(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    between: tuple[datetime, datetime],
    aggregators: Sequence[Aggregator],
    progress: Callable[[int], object] | None = None,
) -> EmbedReport:
    """Write every aggregator's vectors of the rows that `build_rows_read` wrote.

    As `embed_snapshots`, into the file of each view that `transformations.layout.rows_read` names;
    each row has its own as_of.

    Args:
        between: Timestamps around the rows' as_ofs.
    """
    reports = []
    for own, lines in by_space(config, aggregators):
        held = Held.load(own, con, lines, between)
        with ExitStack() as stack:
            views = [(rows_read(own.layout.embeddings(line.view)), str(line)) for line in lines]
            files = tuple(stack.enter_context(sealing(file, line)) for file, line in views)
            part = _Part(rows_read(own.layout.sequences), files, None, None)
            reports.append(_embed_parts(own, con, [part], held, progress))
    return _together(reports)


@dataclass(frozen=True)
class _Part:
    """One file of member_sequences.

    Attributes:
        source: The file.
        files: Where each aggregator's rows go.
        as_of: Of all its rows; None: each has its own.
        created: Their created_timestamp; None: that of each one's sequence.
    """

    source: Path
    files: tuple[Path, ...]
    as_of: datetime | None
    created: datetime | None


@dataclass(frozen=True)
class EmbedTask:
    """Files of sequences to embed: those of one bucket, of a few snapshots.

    Attributes:
        parts: Oldest first.
        lines: Of one item space, that of the configuration.
        between: Timestamps around their as_ofs.
    """

    parts: tuple[_Part, ...]
    lines: tuple[Aggregator, ...]
    between: tuple[datetime, datetime]


class Held(NamedTuple):
    """What many tasks of a process share: the aggregators, the item vectors."""

    graph: Graph
    items: ItemVersions
    table: Any

    @classmethod
    def load(
        cls,
        config: Config,
        con: duckdb.DuckDBPyConnection,
        lines: Sequence[Aggregator],
        between: tuple[datetime, datetime],
        graph: Graph | None = None,
    ) -> Self:
        """Load the packages of lines of one space, and the vectors of a time."""
        items = ItemVersions.read_between(config, con, *between)
        return cls(graph or load_graph(lines, config), items, tf.constant(items.vectors))


_HELD: dict[str, Held] = {}
"""Of a process of an engine, what its last task loaded."""


def embed_files(
    config: Config, con: duckdb.DuckDBPyConnection, task: EmbedTask
) -> tuple[EmbedReport, list[Written]]:
    """Embed a task's files, in its own process; the function of an engine's tasks.

    The next task of the process with the same packages and item vectors finds them loaded.
    """
    packages = [line.artifact(config) / "manifest.json" for line in task.lines]
    files = [*packages, *part_files(config.items_dir)]
    key = repr((task.lines, task.between, [(str(f), f.stat().st_mtime_ns) for f in files]))
    if key not in _HELD:
        _HELD.clear()
        _HELD[key] = Held.load(config, con, task.lines, task.between)
    return _embed_attempts(config, con, task.parts, _HELD[key])


def _embed_space(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    snapshots: Sequence[Snapshot],
    lines: Sequence[Aggregator],
    between: tuple[datetime, datetime],
    progress: Callable[[int], object] | None,
    graph: Graph | None,
    engine: Engine | None,
) -> EmbedReport:
    """Write the partitions of the aggregators of one item space, SNAPSHOTS_AT_ONCE together."""
    layout, reports = config.layout, []
    in_buckets = any(len(snapshot_files(layout.sequences, one.as_of)) > 1 for one in snapshots)
    held = None if engine and in_buckets else Held.load(config, con, lines, between, graph)
    for first in range(0, len(snapshots), SNAPSHOTS_AT_ONCE):
        with ExitStack() as stack:
            places: dict[Path, tuple[Unfinished, int]] = {}
            of_bucket: dict[int | None, list[_Part]] = {}
            for snapshot in snapshots[first : first + SNAPSHOTS_AT_ONCE]:
                sources = snapshot_files(layout.sequences, snapshot.as_of)
                buckets = [bucket_in(source) for source in sources]
                unfinished = [
                    stack.enter_context(
                        replacing_snapshot(
                            layout, layout.embeddings(line.view), snapshot.as_of, str(line), buckets
                        )
                    )
                    for line in lines
                ]
                for index, (bucket, source) in enumerate(zip(buckets, sources, strict=True)):
                    files = tuple(one.files[index] for one in unfinished)
                    places |= {
                        file: (one, index) for file, one in zip(files, unfinished, strict=True)
                    }
                    part = _Part(source, files, snapshot.as_of, snapshot.created_timestamp)
                    of_bucket.setdefault(bucket, []).append(part)
            tasks = [EmbedTask(tuple(parts), tuple(lines), between) for parts in of_bucket.values()]
            if held is None:
                assert engine is not None
                results = engine.run(config, embed_files, tasks)
            else:
                results = (
                    (task, _embed_attempts(config, con, task.parts, held, progress))
                    for task in tasks
                )
            for task, (report, written) in results:
                reports.append(report)
                targets = [file for part in task.parts for file in part.files]
                for file, content in zip(targets, written, strict=True):
                    one, index = places[file]
                    one.take(index, content)
                if held is None:
                    _tell(progress, report.members)
    return _added_up(reports)


def _embed_attempts(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    parts: Sequence[_Part],
    held: Held,
    progress: Callable[[int], object] | None = None,
) -> tuple[EmbedReport, list[Written]]:
    """Write these parts under names of their own; return the files of each part in turn."""
    with attempts([file for part in parts for file in part.files]) as names:
        n_lines = len(held.graph.models)
        own = [
            replace(part, files=tuple(names[index * n_lines : (index + 1) * n_lines]))
            for index, part in enumerate(parts)
        ]
        report = _embed_parts(config, con, own, held, progress)
        return report, [finished(name) for name in names]


def _embed_parts(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    parts: Sequence[_Part],
    held: Held,
    progress: Callable[[int], object] | None,
) -> EmbedReport:
    """Write and check the files of every part."""
    graph, items, table = held
    members = actions = without_vector = 0
    writers = ViewWriters(
        [part.created for part in parts], [part.files for part in parts], graph.models, config.rules
    )
    with closing(writers), ThreadPoolExecutor(1) as writing:
        # One group is written while the next one is computed; never more than one waits.
        written = writing.submit(lambda: 0)
        for group in _groups([part.source for part in parts]):
            padded = _pad(group, items, config.rules, graph)
            results = graph.vectors(padded, table)
            _tell(progress, written.result())
            written = writing.submit(writers.write, group, results)
            members += len(padded.rows)
            actions += padded.n_actions
            without_vector += padded.n_without_vector
        _tell(progress, written.result())
    as_ofs, sources = [part.as_of for part in parts], [part.source for part in parts]
    view_of_partitions(con, "member_sequences", sources, as_ofs, of_member(config.rules))
    for number, model in enumerate(graph.models):
        files = [part.files[number] for part in parts]
        check_view(con, files, as_ofs, model, config.rules)
    con.execute("drop view member_sequences")
    rows = {model.aggregator.view: members for model in graph.models}
    return EmbedReport(members, actions, without_vector, len(items), rows)


def _added_up(reports: Sequence[EmbedReport]) -> EmbedReport:
    """Return what the same aggregators wrote in several parts."""
    rows = {view: sum(one.rows[view] for one in reports) for view in reports[0].rows}
    return EmbedReport(
        sum(one.members for one in reports),
        sum(one.actions for one in reports),
        sum(one.actions_without_vector for one in reports),
        reports[0].items,
        rows,
    )


def _together(reports: Sequence[EmbedReport]) -> EmbedReport:
    """Return what the aggregators of several item spaces wrote."""
    rows = {view: count for report in reports for view, count in report.rows.items()}
    return replace(reports[0], rows=rows)


def _tell(progress: Callable[[int], object] | None, members: int) -> None:
    if progress is not None and members:
        progress(members)


def _groups(sources: Sequence[Path]) -> Iterator[Group]:
    """Read partitions one after the other, about ROWS_AT_ONCE rows at a time."""
    group: Group = []
    rows = 0
    for index, source in enumerate(sources):
        with pq.ParquetFile(source) as file:
            # One that is empty comes too: its views' partitions have to be there.
            empty = pa.RecordBatch.from_pylist([], file.schema_arrow)
            for batch in (empty, *file.iter_batches(ROWS_AT_ONCE)):
                if rows + batch.num_rows > ROWS_AT_ONCE:
                    yield group
                    group, rows = [], 0
                group.append((index, batch))
                rows += batch.num_rows
    yield group


def _pad(group: Group, items: ItemVersions, rules: Rules, graph: Graph) -> Padded:
    """Turn rows of several files into arrays, each with the item vectors of its as_of."""
    # Only what `pad` reads: snapshots of other times may have other columns beside it.
    names = ("event_timestamp", "item_ids", "actions", "event_timestamps")
    batches = [batch for _, batch in group]
    columns = {name: pa.concat_arrays([batch[name] for batch in batches]) for name in names}
    if any(model.further for model in graph.models):
        ends = np.cumsum(pc.list_value_length(columns["item_ids"]).to_numpy())
        offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
        for name in rules.attributes:
            values = pa.concat_arrays([carried_values(batch, name, rules) for batch in batches])
            columns[name] = pa.ListArray.from_arrays(offsets, values)
    rows = pa.record_batch(columns)
    as_ofs = rows["event_timestamp"].cast(pa.int64())
    lengths = pc.list_value_length(rows["item_ids"]).to_numpy()
    return pad(rows, items.at(as_ofs.to_numpy().repeat(lengths)), rules, as_ofs)


def load_graph(aggregators: Sequence[Aggregator], config: Config) -> Graph:
    """Load packaged aggregators into one graph; raises as `models.packaging.load` does."""
    return Graph([load(aggregator, config) for aggregator in aggregators], config.rules)


def together(
    models: Sequence[Loaded], items: ItemTable, rules: Rules
) -> Callable[[Padded], list[Vectors]]:
    """Return a function from padded sequences to each model's vectors {field: [members, dim]}.

    They are what is served: after a round trip through what the line keeps.
    """
    graph, table = Graph(models, rules), tf.constant(items.vectors)

    def run(padded: Padded) -> list[Vectors]:
        results = graph.vectors(padded, table)
        return [
            {field: stored(values, model.store) for field, values in vectors.items()}
            for model, vectors in zip(models, results, strict=True)
        ]

    return run
