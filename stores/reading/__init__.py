"""Behind `stores.read`: what to fetch, from which store, and how ids become keys."""
