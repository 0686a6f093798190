"""The network of `WideAndDeep`: as Keras trains it, and as NumPy serves it."""
