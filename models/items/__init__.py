"""Item encoders, which turn items into vectors, and the table of those vectors."""
