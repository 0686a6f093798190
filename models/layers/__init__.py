"""The aggregators' Keras layers, one per file; `models.layers.build` makes a line's model."""
