"""The evaluation: every variant through Feast, as a ranker would use it, on a later period."""
