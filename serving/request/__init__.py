"""Vectors at request time: the stored sequence, the request's own events, models in process."""

from serving.request.sequences import Event
from serving.request.vectors import RequestTime

__all__ = ["Event", "RequestTime"]
