"""The version history that Feast leaves behind in a SQL registry when it deletes a project."""

import sqlalchemy as sa
from feast import FeatureStore
from feast.infra.registry import sql as tables
from feast.infra.registry.sql import SqlRegistry

HISTORY = tables.feature_view_version_history
VIEWS = (
    tables.feature_views,
    tables.on_demand_feature_views,
    tables.stream_feature_views,
    tables.label_views,
)


def remove_orphans(store: FeatureStore) -> int:
    """Remove the history of views that the store's project does not have; return how many rows.

    `feast teardown` leaves it, and the next apply, which begins each history at version 0 again,
    fails with an IntegrityError. Other projects' rows stay, as does a registry that is not SQL.
    """
    return _remove(store, only_orphans=True)


def remove_history(store: FeatureStore) -> int:
    """Remove the whole history of the store's project; return how many rows."""
    return _remove(store, only_orphans=False)


def history_rows(store: FeatureStore) -> int:
    """Return how many rows of history the store's project has."""
    if not isinstance(store.registry, SqlRegistry):
        return 0
    query = sa.select(sa.func.count()).select_from(HISTORY).where(_of(store))
    with store.registry.write_engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def _remove(store: FeatureStore, only_orphans: bool) -> int:
    if not isinstance(store.registry, SqlRegistry):
        return 0
    statement = sa.delete(HISTORY).where(_of(store))
    if only_orphans:
        for table in VIEWS:
            known = sa.select(table.c.feature_view_name).where(table.c.project_id == store.project)
            statement = statement.where(HISTORY.c.feature_view_name.not_in(known))
    with store.registry.write_engine.begin() as connection:
        return connection.execute(statement).rowcount


def _of(store: FeatureStore) -> sa.ColumnElement[bool]:
    return HISTORY.c.project_id == store.project
