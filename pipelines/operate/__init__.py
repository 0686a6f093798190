"""The life of a release, played in a simulated market that answers."""
