"""What the first answer of a server says about the settings by which it was asked."""

import re
from collections.abc import Mapping

from transformations.errors import InputError

# What an answer says → the setting that is wrong. The first that is found counts.
PASSWORD = "NOAUTH|WRONGPASS|without any password|invalid (username|password)|no password supplied"
PASSWORD += "|[Aa]uthentication|no password|AUTH"
CERTIFICATE = "CERTIFICATE_VERIFY_FAILED|certificate"
TLS = "SSL|WRONG_VERSION_NUMBER|reset by peer|[Cc]onnection closed|closed the connection|ssl"
RIGHTS = "NOPERM|permission denied"
MASTER = r"No master found for '[^']*'$"  # else it says which sentinel did not answer
ABSENT = "does not exist|invalid DB index|DB index is out of range"


def setting_of(error: object, settings: Mapping[str, str]) -> str:
    """Return what to look at: the setting that an answer names.

    >>> setting_of(OSError("Connection reset by peer"), {"tls": "ssl=true"})
    'ssl=true'
    """
    for pattern, name in (
        (PASSWORD, "password"),
        (CERTIFICATE, "certificate"),
        (RIGHTS, "rights"),
        (ABSENT, "database"),
        (MASTER, "master"),
        (TLS, "tls"),
    ):
        if re.search(pattern, str(error)) and name in settings:
            return settings[name]
    return settings.get("address", "the address")


def refusal(what: str, error: object, settings: Mapping[str, str]) -> InputError:
    """Return an error that says what was asked, what it answered, and what to look at.

    Args:
        settings: Kind of what may be wrong (password, certificate, tls, rights, database,
            master, address) → the setting, in words.
    """
    return InputError(
        f"{what}: expected an answer, got {type(error).__name__}: {str(error).strip()}. Nothing "
        f"was changed. Look at {setting_of(error, settings)}"
    )
