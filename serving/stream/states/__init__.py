"""What the stream knows of each member: a protocol and one file per store."""
