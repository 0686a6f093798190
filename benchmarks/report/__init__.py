"""docs/performance.md and its plot, made from the benchmarks' JSON."""
