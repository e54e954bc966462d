class VieError(Exception):
    """A fault that the user can mend.

    The message is one line that names the thing, the cause and the cure. Command lines print it and exit with status 1.
    """
