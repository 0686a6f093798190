"""Behind `stores.columnar` and the online stores: find the newest rows and write them."""
