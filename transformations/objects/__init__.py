"""Tables in an object store: paths of their files, and the commits that say which those are."""
