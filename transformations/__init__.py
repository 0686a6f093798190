"""DuckDB tables: raw events → typed activity → member sequences. No TensorFlow, no Feast."""
