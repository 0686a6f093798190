"""What a ranker learns from: labels, their candidates, and features as they were at the time."""
