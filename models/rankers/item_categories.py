"""The category of every item, from the staged items."""

import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from models.rankers.history import Categories
from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.errors import InputError


def items_known(config: Config, con: Connection) -> None:
    """Make the temp table `items_known`: item_id, available_at, category; no searches.

    Raises:
        InputError: no item is staged.
    """
    staged = config.layout.staged_items
    if not staged.exists():
        raise InputError(f"expected staged items in {staged}, found none; first: activity run")
    con.execute(
        "create or replace temp view stg_items as select null::varchar as kind, "
        f"[]::varchar[] as categories where false union all by name from {parquet([staged])}"
    )
    con.execute(f"create or replace temp table items_known as {sql('items_known', __file__)}")
    con.execute("drop view stg_items")


def read_categories(con: Connection) -> Categories:
    """Return the categories of `items_known`."""
    table: pa.Table = con.sql("select item_id, category from items_known").to_arrow_table()
    return Categories.of(table["item_id"].to_numpy(), table["category"].to_pylist())
