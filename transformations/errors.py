"""The two ways a command can fail; the command line maps them to exit codes."""

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


class RunFailedError(ActivityError):
    """The input was usable, but the run must stop, say at a failed check. Exit code 1."""
