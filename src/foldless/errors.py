"""The error that a user can mend: it becomes one plain sentence and exit code 2 on the command line."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was expected, what came and what to do."""
