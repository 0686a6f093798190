"""The two ways in which a command ends badly; the command line maps them to exit codes."""


class ActivityError(Exception):
    """Base of the errors whose message is meant for the user: expected, got, what to do."""


class InputError(ActivityError):
    """What the user gave (configuration, arguments, source) is wrong. Exit code 2."""


class RunFailedError(ActivityError):
    """The input was usable, but the run may not go on (a check failed, say). Exit code 1."""
