"""Behind `stores.duckdb_asof` and `stores.spark_asof`: the point-in-time join."""
