"""Behind `stores.read`: the plan of a read, ids as entity keys, and a backend per store."""
