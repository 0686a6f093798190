"""Feast plug-ins that make vector features fast. They know nothing of member activity."""
