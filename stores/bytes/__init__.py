"""How Feast lays keys and values in bytes, written and read over whole columns."""
