"""The aggregators' Keras layers, one a file; `models.layers.build` makes the model of a line."""
