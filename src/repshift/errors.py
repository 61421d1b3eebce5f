"""The one error a user's own input can cause."""


class InputError(ValueError):
    """Something the user passed cannot be used.

    The message says what was passed, what was expected and what to do. The command line prints it
    alone, without a traceback, and exits with status 2.
    """


def quoted(text: str, most: int = 300) -> str:
    """What was passed, as an error shows it: in quotes, the middle of a long text left out."""
    half = most // 2
    return repr(text if len(text) <= most else f"{text[:half]}...{text[-half:]}")
