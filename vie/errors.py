class VieError(Exception):
    """A fault that the user can mend.

    The message is one line that names the thing, the cause and the cure. Command lines print it and exit with status 1.
    """


class UnreachableError(VieError):
    """Something far away that may well be there could not be fetched.

    A corpus's damage is left out of a run and named; this ends the run, which the same command continues.
    """
