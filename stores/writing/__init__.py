"""Behind `stores.columnar` and the online stores: newest rows, and how they are written."""
