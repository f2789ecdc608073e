"""The errors that become one plain sentence on the command line, and the one for numbers that ran away."""

LONGEST_WORD = 500
"""Letters of a word that a sentence quotes, such as a path; what damaged files hold instead of words is longer."""


class InputError(Exception):
    """What the user gave cannot be used: what was expected, what came, what to do. Exit code 2, nothing written.

    It is one line, whatever stands in the names and values that it quotes.
    """

    def __init__(self, sentence: str) -> None:
        words = (word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}…" for word in sentence.split())
        super().__init__(" ".join(words))


def check_name(name: object) -> None:
    """Refuse the name of a file or folder that is no text: SimpleITK ends the process at one, a report cannot hold it.

    Raises:
        InputError: its bytes are not UTF-8.
    """
    try:
        str(name).encode()
    except UnicodeEncodeError:
        shown = str(name).encode(errors="backslashreplace").decode()
        raise InputError(f"the name {shown} is not in UTF-8; rename what bears it, and name it anew") from None


class TrainingError(RuntimeError):
    """Training cannot go on; a checkpoint that was written is intact. Exit code 1."""


class UnprovenError(Exception):
    """What was done is done and written, but a map is not proven fold-free or keeps no tolerance. Exit code 3."""


class NotFiniteError(ValueError):
    """A field holds values that are not finite, so that what was asked of it has no answer."""
