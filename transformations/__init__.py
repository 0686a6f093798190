"""DuckDB tables: raw events to typed activity to member sequences. No TensorFlow, no Feast."""
