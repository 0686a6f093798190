"""Data to try the flow: a simulated market, and public data sets."""
