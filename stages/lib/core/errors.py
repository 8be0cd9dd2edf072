"""Errors that are the user's to mend: their message is one line, without a traceback."""


class UserError(ValueError):
    """Something is wrong with what the user gave; the message names it and says what to do."""


class DamagedError(UserError):
    """A file is not what was written; the message names it and what makes it again."""
