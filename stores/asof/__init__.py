"""Behind `stores.duckdb_asof`: the point-in-time join."""
