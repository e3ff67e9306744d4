"""The one error of the edge."""

import re


class InputError(ValueError):
    """A table, a column or an argument that cannot be used as it is.

    The message is one line that names the file, the column, how many rows, and what to do. On the command line it is
    printed as it stands and the exit status is 2.

    Parameters
    ----------
    message : str
        The line; line breaks and runs of blanks become single blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"\s+", " ", message).strip())


def count(n: int, noun: str) -> str:
    """Return a number with its noun: ``1,234 rows``, ``1 row``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listing(names: list[str], most: int = 24) -> str:
    """Return the names joined by commas, cut after `most`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
