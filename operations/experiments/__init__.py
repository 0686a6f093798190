"""What decides between two ways to serve: who is in which arm, what it did, how sure that is."""
