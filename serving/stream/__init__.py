"""Sequences and vectors kept fresh in seconds: a bus, states, and the views' online rows."""
