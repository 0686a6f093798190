"""Rankers: what a catalogue line says, the inputs of a pair, and what learns from them."""
