"""The page of a solution: one self-contained report.html.

matplotlib and jinja2 are imported when a page is written, not before.
"""

from pathlib import Path

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write report.html into a solution folder, whole or not at all.

    Parameters
    ----------
    folder
        What `calib.Solution.write` or ``calib solve`` made. What is missing in it is absent from the page.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    calib.tables.InputError
        The folder holds no solution.
    """
    from calib.report.page import write

    return write(Path(folder))
