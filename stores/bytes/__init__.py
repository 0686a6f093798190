"""Feast's bytes of keys and values, written and read in whole columns."""
