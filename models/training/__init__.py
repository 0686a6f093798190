"""Training an aggregator: recipe, examples, objective, fitting, and the search for settings."""
