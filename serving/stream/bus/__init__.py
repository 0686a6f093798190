"""Where the stream's events come from: a protocol and one file per bus."""
