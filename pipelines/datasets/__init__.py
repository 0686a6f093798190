"""Data to try the flow on: a simulated market, and public data sets."""
