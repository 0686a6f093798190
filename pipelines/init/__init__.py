"""A workspace from two sources: look at them, guess what they hold, write the folder."""
