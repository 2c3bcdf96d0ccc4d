"""Exit codes, and the error that ends a command with one line."""

OK = 0
FAILURE = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130  # as a shell reports SIGINT
BROKEN_PIPE = 141  # as a shell reports SIGPIPE


class CommandError(Exception):
    """Ends the command: the message goes to stderr as one line, ``exit_code`` to the shell."""

    def __init__(self, message: str, exit_code: int = FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
