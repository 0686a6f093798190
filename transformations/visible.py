"""Text of a user's data without what would steer a terminal or a page."""

import re

# C0 but tab and newline, DEL, C1, marks that reorder text, line separators, lone surrogates.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return a text with pictures of its control characters.

    >>> visible("a\\x1b[31mb\\x7f\\x9b")
    'a␛[31mb␡\\\\x9b'
    """
    return CONTROLS.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else found[0].encode("unicode_escape").decode()
