"""Candidates of a member, from what is online."""
