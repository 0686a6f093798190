"""Vectors at request time: stored sequences, the request's own events, the models in process."""
