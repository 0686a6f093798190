"""Aggregators: sequences to vectors. `catalog` names them and imports no TensorFlow."""
