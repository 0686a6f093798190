"""Behind `stores.spark_asof`: the point-in-time join of `stores/asof`, part by part in Spark."""
