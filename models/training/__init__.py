"""Training an aggregator: recipe, examples, objectives, fitting and tuning."""
