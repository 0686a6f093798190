"""The Arrow types that a feature view declares."""

from __future__ import annotations

import pyarrow as pa
from feast import FeatureView
from feast.types import FeastType, from_feast_to_pyarrow_type


def declared_types(view: FeatureView) -> dict[str, pa.DataType | None]:
    """Return the Arrow type that a view declares for each key and feature; None for a map or so."""
    return {
        field.name: _arrow_type(field.dtype) for field in [*view.entity_columns, *view.features]
    }


def _arrow_type(declared: FeastType) -> pa.DataType | None:
    try:
        found = from_feast_to_pyarrow_type(declared)
    except ValueError:
        return None
    return found if isinstance(found, pa.DataType) else None
