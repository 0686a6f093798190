"""The two ways a command can fail; the command line maps them to exit codes."""

import errno

from transformations.secrets import redact


class ActivityError(Exception):
    """Base of the errors whose message is meant for the user: expected, got, what to do.

    The message holds no password.
    """

    def __str__(self) -> str:
        return redact(super().__str__())


class InputError(ActivityError):
    """The user's configuration, arguments or source is wrong. Exit code 2."""


class TooFewError(InputError):
    """There is too little to learn from."""


class NoSpaceError(ActivityError, OSError):
    """A disk is full: what was written there is not, and what was there before is kept."""

    def __init__(self, path: object, kept: str, error: BaseException) -> None:
        super().__init__(
            f"no space is left on the disk of {path} ({error}). {kept}. Free some space there, "
            "then run this again"
        )


def is_no_space(error: BaseException) -> bool:
    """Whether an error says that a disk is full, in the words of any of the libraries."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    said = ("No space left on device", "database or disk is full", "Disk quota exceeded")
    return getattr(error, "errno", None) in numbers or any(text in str(error) for text in said)


class RunFailedError(ActivityError):
    """The input was usable, but the run must stop, say at a failed check. Exit code 1."""
