"""What the numbers in docs/performance.md come from: each prints a table and writes JSON."""
