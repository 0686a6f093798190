"""Whether a Feast service tells nothing from the future, and the same offline and online.

It asks nothing but Feast, so that any service of any repository can be looked at:

    history of a view ──► moments around its rows ──► what could be read then, by hand ─┐
              │                                  └──► get_historical_features ──────────┴► equal?
              └──► the newest row of some keys ──► get_online_features ──────────────────► equal?
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView
from numpy.typing import NDArray

from serving.publish.feast_store import quiet
from transformations.duck import sql
from transformations.errors import InputError

TICK = timedelta(microseconds=1)
TIMES = ("created_timestamp", "event_timestamp")
CLOSE = 1e-5
"""Numbers of the same rule may differ by this, in proportion where they are larger than one."""


@dataclass(frozen=True)
class Found:
    """What one check of one view came to.

    Attributes:
        check: `future` (a training join), `parity` (the online store), or `created`: rows that
            could be read before the moment that they tell of. Of a view whose source names no
            created_timestamp_column there is none: its event timestamp is taken for it.
        compared: Moments or keys that were looked at.
        off: Of them, how many were not as expected.
        example: The first of those, in words.
    """

    check: str
    view: str
    compared: int
    off: int
    example: str = ""

    @property
    def share(self) -> float:
        """The share that was not as expected; 0 where nothing was compared."""
        return self.off / self.compared if self.compared else 0.0


@dataclass(frozen=True, eq=False)
class History:
    """A view's rows of a time, as the offline store has them.

    Attributes:
        keys, features: Columns of `table`.
        created: Whether rows say since when they could be read.
        ttl: How old a row may be; zero for any age.
    """

    view: str
    keys: list[str]
    features: list[str]
    table: pa.Table
    created: bool
    ttl: timedelta


def check_service(
    store: FeatureStore,
    name: str,
    since: datetime,
    now: datetime,
    rows: int,
    seed: int = 0,
    skip: set[str] | None = None,
) -> list[Found]:
    """Check each feature view that a service reads.

    Views on demand are left out: they have no history. A row that is newer online than offline is
    as expected: a stream's rows reach the offline store later.

    Args:
        since: Rows of before are not read; moments that need one are left out.
        rows: So many rows of each view are looked at.
        skip: Views that were looked at before; those of this service are added.

    Raises:
        InputError: there is no such service, or it reads no feature view.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        service = store.get_feature_service(name)
    except FeatureServiceNotFoundException:
        there = ", ".join(sorted(each.name for each in store.list_feature_services())) or "none"
        raise InputError(f"expected a feature service, got {name!r}; there are: {there}") from None
    views = {view.name: view for view in store.list_all_feature_views()}
    found: list[Found] = []
    read: dict[str, dict[str, None]] = {}  # one view may be there under several names
    for projection in service.feature_view_projections:
        fields = read.setdefault(projection.name, {})
        fields |= dict.fromkeys(field.name for field in projection.features)
    for name_of_view, fields in read.items():
        view = views.get(name_of_view)
        if not isinstance(view, FeatureView) or not fields:
            continue
        if skip is not None:
            if name_of_view in skip:
                continue
            skip.add(name_of_view)
        history = _history(store, view, [*fields], since, now)
        found += check_view(store, history, now, rows, np.random.default_rng(seed))
    if not found and not skip:
        raise InputError(f"{name} reads no feature view, so there is nothing to check")
    return found


def check_view(
    store: FeatureStore, history: History, now: datetime, rows: int, rng: np.random.Generator
) -> Iterator[Found]:
    """Yield what each check of one view came to."""
    table, total = history.table, history.table.num_rows
    if history.created:
        created, event = (pc.cast(table[name], pa.int64()) for name in TIMES)
        early = pc.sum(pc.less(created, event)).as_py() or 0
        said = "a row could be read before the moment that it tells of"
        yield Found("created", history.view, total, early, said)
    chosen = np.sort(rng.choice(total, min(rows, total), replace=False))
    yield _future(store, history, chosen)
    yield _parity(store, history, chosen, now)


def _history(
    store: FeatureStore,
    view: FeatureView,
    features: list[str],
    since: datetime,
    now: datetime,
) -> History:
    """Read a view's rows of [since, now]."""
    source: Any = view.batch_source
    keys = [column.name for column in view.entity_columns]
    mapping = {mapped: own for own, mapped in (source.field_mapping or {}).items()}
    created = source.created_timestamp_column or None
    provider: Any = store._get_provider()
    with quiet():
        job = provider.offline_store.pull_all_from_table_or_query(
            config=store.config,
            data_source=source,
            join_key_columns=[mapping.get(key, key) for key in keys],
            feature_name_columns=[mapping.get(name, name) for name in features],
            timestamp_field=source.timestamp_field,
            created_timestamp_column=created,
            start_date=since,
            end_date=now,
        )
        read = job.to_arrow()
    columns = [pa.array(range(read.num_rows), pa.int64())]
    names = ["row_id"]
    for name in (*keys, *features):
        columns.append(read[mapping.get(name, name)])
        names.append(name)
    at = pa.timestamp("us", "UTC")
    for name, column in (
        ("event_timestamp", source.timestamp_field),
        ("created_timestamp", created or source.timestamp_field),
    ):
        columns.append(_utc(read[column]).cast(at, safe=False))
        names.append(name)
    table = pa.table(columns, names)
    ttl = view.ttl or timedelta(0)
    return History(view.name, keys, features, table, created is not None, ttl)


def _utc(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return timestamps of UTC: those without a zone are meant so."""
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        return column.cast(pa.timestamp(column.type.unit, "UTC"))
    return column


def _future(store: FeatureStore, history: History, chosen: NDArray[np.int64]) -> Found:
    """Join moments around the chosen rows, and compare with what could be read then."""
    table = history.table.append_column("key_id", pa.array(_codes(history)))
    events, created = (
        pd.DatetimeIndex(table[name].to_pandas()).take(chosen)
        for name in ("event_timestamp", "created_timestamp")
    )
    read = events.where(events >= created, created)  # when the row could be read first
    at = np.concatenate([(events - TICK).asi8, (read - TICK).asi8, read.asi8])
    unit = read.unit
    rows = np.tile(chosen, 3)
    moments = pd.DataFrame(
        {
            "moment": np.arange(len(rows)),
            "key_id": table["key_id"].to_numpy()[rows],
            "event_timestamp": pd.to_datetime(at, unit=unit, utc=True),
        }
    )
    oldest = moments["event_timestamp"] - history.ttl
    moments["oldest"] = oldest if history.ttl else pd.Timestamp(0, tz="UTC")
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        con.register("moments", moments)
        con.register(
            "history",
            table.select(["row_id", "key_id", "event_timestamp", "created_timestamp"]),
        )
        known = con.execute(sql("readable", __file__)).df()
    # Of rows that tell of the same moment, and could be read since the same, none is the right one.
    known = known[known["n_rows"] == 1]
    if not len(known):
        return Found("future", history.view, 0, 0)
    where = rows[known["moment"].to_numpy()]
    frame = pd.DataFrame(
        {key: table[key].to_pandas().iloc[where].to_numpy() for key in history.keys}
    )
    asked = moments["event_timestamp"].iloc[known["moment"].to_numpy()]
    frame["event_timestamp"] = asked.reset_index(drop=True)
    frame["row"] = np.arange(len(frame))
    with quiet():
        job: Any = store.get_historical_features(
            entity_df=frame,
            features=[f"{history.view}:{name}" for name in history.features],
            full_feature_names=True,
            filter_by_created_timestamp=True,
        )
        joined = job.to_arrow().sort_by("row")
    expected = history.table.take(known["row_id"].to_numpy())
    given = [joined[f"{history.view}__{name}"] for name in history.features]
    moment = [f"at {each:%Y-%m-%d %H:%M:%S.%f}" for each in frame["event_timestamp"]]
    return _compared("future", history, expected, given, moment)


def _parity(
    store: FeatureStore, history: History, chosen: NDArray[np.int64], now: datetime
) -> Found:
    """Read the keys of the chosen rows online, and compare with the newest row of each offline."""
    codes = _codes(history)
    keys = np.unique(codes[chosen])
    order = history.table.select(["event_timestamp", "created_timestamp"]).to_pandas()
    order["key_id"] = codes
    order = order[order["key_id"].isin(keys) & (order["created_timestamp"] <= now)]
    if history.ttl:
        order = order[order["event_timestamp"] >= now - history.ttl]
    order = order.sort_values(["key_id", "event_timestamp", "created_timestamp"])
    newest = order.drop_duplicates("key_id", keep="last").index.to_numpy()
    if not len(newest):
        return Found("parity", history.view, 0, 0)
    expected = history.table.take(newest)
    rows = [
        {key: expected[key][index].as_py() for key in history.keys} for index in range(len(newest))
    ]
    with quiet():
        online: Any = store.get_online_features(
            features=[f"{history.view}:{name}" for name in history.features],
            entity_rows=rows,
            full_feature_names=True,
        ).to_dict(include_event_timestamps=True)
    names = [f"{history.view}__{name}" for name in history.features]
    at = np.array(online[f"{names[0]}__ts"], np.int64)
    # Online stores keep whole seconds.
    newer = at > np.array([stamp.as_py().timestamp() for stamp in expected["event_timestamp"]])
    kept = np.flatnonzero(~newer)
    given = [[online[name][index] for index in kept] for name in names]
    found = _compared("parity", history, expected.take(kept), given, ["online"] * len(kept))
    return Found(found.check, found.view, len(newest), found.off, found.example)


def _compared(
    check: str,
    history: History,
    expected: pa.Table,
    given: Sequence[Sequence[Any]],
    where: Sequence[str],
) -> Found:
    """Compare rows, feature by feature."""
    off, example = np.zeros(len(where), bool), ""
    for name, values in zip(history.features, given, strict=True):
        for index, (one, other) in enumerate(zip(expected[name], values, strict=True)):
            if not same(_plain(one), _plain(other)):
                if not off.any():
                    key = ", ".join(str(expected[key][index]) for key in history.keys)
                    example = (
                        f"{name} of {key} {where[index]}: expected {_short(_plain(one))}, "
                        f"got {_short(_plain(other))}"
                    )
                off[index] = True
    return Found(check, history.view, len(where), int(off.sum()), example)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same: numbers to CLOSE, times to the second, lists by item.

    >>> same(1.0, 1.000001), same([1.0, 2.0], [1.0, 3.0]), same(None, 0.0)
    (True, False, False)

    A missing list is the same as an empty one: stores tell them apart differently.
    """
    if isinstance(one, list | tuple | np.ndarray) or isinstance(other, list | tuple | np.ndarray):
        own, others = (list(value) if value is not None else [] for value in (one, other))
        return len(own) == len(others) and all(map(same, own, others))
    if one is None or other is None:
        return one is other
    if isinstance(one, datetime) or isinstance(other, datetime):
        return bool(abs((pd.Timestamp(one) - pd.Timestamp(other)).total_seconds()) < 1)
    if isinstance(one, float) or isinstance(other, float):
        if np.isnan(one) or np.isnan(other):
            return bool(np.isnan(one) and np.isnan(other))
        return bool(abs(one - other) <= CLOSE * max(abs(one), abs(other), 1))
    return bool(one == other)


def _plain(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _codes(history: History) -> NDArray[np.int64]:
    """Return a number for each distinct key, int64 [rows]; without keys all rows have one."""
    if not history.keys:
        return np.zeros(history.table.num_rows, np.int64)
    frame = history.table.select(history.keys).to_pandas()
    return frame.groupby([*frame], sort=False, dropna=False).ngroup().to_numpy(np.int64)
