"""The evaluation's formulas: metrics, intervals, the small ranker, references and promises."""
