"""Aggregators: sequences → vectors. `catalog` names them and imports no TensorFlow."""
