"""On-demand features, which Feast's own code adds to joined rows, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import from_feast_to_pyarrow_type


@dataclass(frozen=True)
class OnDemand:
    """The on-demand views of a request, its references, and how features are named."""

    views: tuple[OnDemandFeatureView, ...]
    feature_refs: tuple[str, ...]
    full_feature_names: bool
    """Whether features are named `<view>__<feature>`."""

    def added_to(self, table: pa.Table) -> pa.Table:
        """Return joined rows with their on-demand features, of the declared types, behind them."""
        joined = len(table.schema)
        result = _Batch(table, self).to_arrow()
        declared = _declared_types(self.views)
        for index in range(joined, len(result.schema)):
            name = result.schema.names[index]
            kind = declared.get(name)
            if kind is not None and result.schema.field(index).type != kind:
                result = result.set_column(index, name, result.column(index).cast(kind))
        return result


class _Batch(RetrievalJob):
    """Joined rows, to which Feast's own code adds the on-demand features."""

    def __init__(self, table: pa.Table, asked: OnDemand) -> None:
        self._table = table
        self._asked = asked

    @property
    def full_feature_names(self) -> bool:
        return self._asked.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return list(self._asked.views)

    @property
    def metadata(self) -> RetrievalMetadata:
        # By the features, Feast's code leaves out what a view computes besides.
        return RetrievalMetadata(features=list(self._asked.feature_refs), keys=[])

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._table


def _declared_types(views: Sequence[OnDemandFeatureView]) -> dict[str, pa.DataType]:
    declared = {}
    for view in views:
        for field in view.features:
            kind = from_feast_to_pyarrow_type(field.dtype)
            declared[field.name] = kind
            declared[f"{view.projection.name_to_use()}__{field.name}"] = kind
    return declared
