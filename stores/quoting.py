"""Names and texts in SQL."""


def quote(name: str) -> str:
    """Write an identifier: `na"me` becomes `"na""me"`."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a string constant."""
    return "'" + text.replace("'", "''") + "'"
