"""Feast declarations only."""
