"""The one error a user's own input can cause."""


class InputError(ValueError):
    """Something the user passed cannot be used.

    The message says what was passed, what was expected and what to do. The command line prints it
    alone, without a traceback, and exits with status 2.
    """
