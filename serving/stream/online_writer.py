"""Writes rows to the views' online tables, in columns where the store supports it."""

from typing import Any

import pyarrow as pa
from feast import FeatureStore
from feast.utils import _convert_arrow_to_proto

from stores.columnar import encode_rows
from stores.protocols import BulkOnlineStore
from transformations.config import Config


class OnlineWriter:
    """Writes to the online store as materialization does.

    The registry is read once per view, so restart a worker after `feast apply`.
    """

    def __init__(self, config: Config, store: FeatureStore) -> None:
        self.id_type = pa.int64() if config.member_id_type == "int64" else pa.string()
        self._store = store
        self._online: Any = store._get_provider().online_store
        self._views: dict[str, Any] = {}

    def write(self, name: str, rows: pa.RecordBatch) -> None:
        """Write rows of a view's table, under the table's column names; an older row never wins.

        Raises:
            feast.errors.FeatureViewNotFoundException: the view was never applied.
        """
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self._store.get_feature_view(name)
        mapping = view.batch_source.field_mapping or {}
        renamed = rows.rename_columns([mapping.get(name, name) for name in rows.schema.names])
        config = self._store.config
        if isinstance(self._online, BulkOnlineStore) and self._online.takes_encoded(config):
            self._online.prepare_write(config, view, encode_rows(view, renamed))()
            return
        types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
        protos = _convert_arrow_to_proto(renamed, view, types)
        self._online.online_write_batch(config, view, protos, progress=None)
