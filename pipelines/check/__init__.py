"""`activity check`: what a run would make of the sources, found in seconds, nothing written."""
