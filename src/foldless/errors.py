"""The errors that become one plain sentence on the command line, and the one for numbers that ran away."""


class InputError(Exception):
    """What the user gave cannot be used: what was expected, what came, what to do. Exit code 2, nothing written."""


class TrainingError(RuntimeError):
    """Training cannot go on; a checkpoint that was written is intact. Exit code 1."""


class UnprovenError(Exception):
    """What was done is done and written, but a map is not proven fold-free. Exit code 3."""


class NotFiniteError(ValueError):
    """A field holds values that are not finite, so that what was asked of it has no answer."""
