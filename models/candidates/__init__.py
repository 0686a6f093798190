"""Candidate sources: which items a ranker looks at, member by member."""
