"""Passwords of settings: where they come in, and that they never get out.

`${NAME}` is replaced by an environment variable after a URL or YAML was parsed, so that no
character of a value means anything there. What was found to be secret is remembered for as long as
the process lives, and `redact` removes it, and whatever looks like a password, from any text that
is shown or written.
"""

import logging
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from transformations.visible import visible

HIDDEN = "***"
VARIABLE = re.compile(r"\$\{(\w+)\}")

NAME = r"[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|api_?key|credentials?)[\w.-]*"
SECRET_NAME = re.compile(NAME, re.IGNORECASE)
# Of environment variables more names are taken for secrets: their values are what is looked for.
SECRET_VARIABLE = re.compile(r"pass|pwd|pw$|secret|token|key|cred|auth", re.IGNORECASE)
# user:password@ of a URL, up to the last @ of the word: whoever has not quoted an @ has it hidden.
USER = re.compile(r"""(\b[\w.+-]+://[^\s:/@?#'"]*):(?!\$\{\w+\}@)[^\s'"]*@""")
VALUE = re.compile(
    rf"""(\b(?:{NAME})['"]?\s*[=:]\s*)(?!\$\{{|\*\*\*)('[^']*'|"[^"]*"|[^\s&,;'"}})\]]+)""",
    re.IGNORECASE,
)
WORD = 10
"""Shorter secrets are removed only where they are a word: `postgres` is one, and many' password."""
SHORTEST = 6
"""Of environment variables, shorter values are no secrets."""

_known: set[str] = set()


def remember(secret: object) -> None:
    """Let `redact` remove a secret, and its percent-encoded forms, from now on."""
    text = "" if secret is None else str(secret)
    forms = (text, quote(text, ""), quote(text, " +"), quote_plus(text))  # " +": as SQLAlchemy
    _known.update(form for form in forms if len(form) > 1)


def redact(text: str) -> str:
    """Return a text without passwords.

    >>> redact("postgresql://svc:a@b@host/db?user=u&password=x, no such host; PWD='a b'")
    "postgresql://svc:***@host/db?user=u&password=***, no such host; PWD='***'"
    """
    for secret in sorted(_known | set(_environment()), key=len, reverse=True):
        if len(secret) >= WORD:
            text = text.replace(secret, HIDDEN)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = USER.sub(rf"\1:{HIDDEN}@", text)
    return VALUE.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    quoted = found[2][0] if found[2][0] in "'\"" else ""
    return f"{found[1]}{quoted}{HIDDEN}{quoted}"


def _environment() -> Iterator[str]:
    """Yield the values of environment variables that hold secrets by their names."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET_VARIABLE.search(name) and not _is_plain(name, value):
            yield value


def _is_plain(name: str, value: str) -> bool:
    """Whether a value is a path or a number, which some variables called KEY or AUTH hold.

    A key of AWS may begin with a slash.
    """
    return value.isdecimal() or (value.startswith("/") and not name.startswith("AWS_SECRET"))


def without_user(url: str) -> str:
    """Return a URL by which its place is named: no user, no password, no settings.

    >>> without_user("postgresql+psycopg://svc:${PASSWORD}@host/shop?sslmode=require")
    'postgresql+psycopg://host/shop'
    """
    return redact(re.sub(r"//[^\s?]*@", "//", url).partition("?")[0])


def has_literal(url: str) -> bool:
    """Whether a URL holds a password itself rather than the ${NAME} of a variable."""
    return redact(url) != url


def expanded(value: Any, key: str = "") -> Any:
    """Return parsed YAML with the variables of its texts; those of secrets are remembered.

    As in Feast, `$NAME` is a variable too, and one that is not set stays as it is written.

    Args:
        key: The key that the value belongs to.
    """
    if isinstance(value, dict):
        return {name: expanded(one, str(name)) for name, one in value.items()}
    if isinstance(value, list):
        return [expanded(one, key) for one in value]
    if not isinstance(value, str):
        if SECRET_NAME.fullmatch(key):
            remember(value)
        return value
    text = os.path.expandvars(value)
    if SECRET_NAME.fullmatch(key):
        remember(text)
    for found in VALUE.finditer(text):
        remember(found[2].strip("'\""))
    return text


def unset(value: Any) -> Iterator[str]:
    """Yield the ${VARIABLES} of parsed YAML that are not set."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from unset(one)
    elif isinstance(value, str):
        yield from (name for name in VARIABLE.findall(value) if name not in os.environ)


def redact_logs() -> None:
    """Remove secrets and control characters from every log record made here from now on."""
    make = logging.getLogRecordFactory()

    def redacted(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            record.msg, record.args = visible(redact(record.getMessage())), ()
        except Exception:  # a record whose arguments do not fit its text: logging says so
            return record
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = visible(redact(trace))
        return record

    logging.setLogRecordFactory(redacted)
