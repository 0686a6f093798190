"""Sequences and vectors fresh within seconds: a bus, states, and the views' online rows."""
