"""The online side: publish a snapshot, stream what happened since, compute at request time."""
