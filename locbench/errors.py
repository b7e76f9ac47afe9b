"""Errors meant for people: one line that says what is wrong, where, and what to do next."""


class UserError(ValueError):
    """Something the user can put right; the command line prints its one line and exits with 2."""

    exit_code = 2


class RunFailed(UserError):
    """A run ended without a result (diverged, or could not be saved); exit code 3."""

    exit_code = 3


class CheckFailed(UserError):
    """A regression check found a number that moved; exit code 1."""

    exit_code = 1
