"""The numbers of an evaluation: metrics, intervals, references, cohorts, storage and gates."""
