"""What runs between two daily runs: the stream worker, the vector at request time."""
