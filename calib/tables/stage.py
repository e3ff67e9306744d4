"""An output folder that appears whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from calib.tables.errors import InputError

SOLUTION_FILES = (
    "zeropoints.ecsv",
    "zeropoints.parquet",
    "stars.parquet",
    "measurements.parquet",
    "terms.ecsv",
    "run.json",
    "report.html",
)
"""What a solution is made of; other files in a folder are the user's and stay."""
ASKED_FOR = ("covariance.npz",)
"""What it holds besides when it was asked for."""


@contextlib.contextmanager
def stage_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden folder beside `out`, or in it where it is there, which takes its place when the block ends well.

    An older solution in `out` stays as it is until then, and if the block fails; afterwards nothing of it is left.
    Files in `out` that are no part of a solution stay.

    Parameters
    ----------
    out : path
        The folder; parents are made.

    Yields
    ------
    Path
        The folder to write into.

    Raises
    ------
    InputError
        `out` is a file or a link to nothing, or it (or its parent, where it is not there) cannot be written.
    """
    final = Path(out).absolute()
    if os.path.lexists(final) and not final.is_dir():
        raise InputError(f"{out}: is a file, or a link to nothing; give a folder with --out")
    home = final if final.exists() else final.parent  # a mounted folder can be written where its parent cannot
    made = [p for p in [home, *home.parents] if not p.exists()]
    try:
        home.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".part", dir=home))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another folder with --out") from error
    try:
        yield stage
        stage.chmod(0o777 & ~_umask())
        _take_place(stage, final)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _take_place(stage: Path, final: Path) -> None:
    if not final.exists():
        os.rename(stage, final)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".old", dir=stage.parent))
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.rename(source, target)
        moved.append((source, target))

    try:
        for name in sorted({*SOLUTION_FILES, *ASKED_FOR, *(p.name for p in stage.iterdir())}):
            if (final / name).exists():
                move(final / name, old / name)
        for path in sorted(stage.iterdir(), key=lambda p: p.name == "run.json"):
            move(path, final / path.name)
    except BaseException:
        for source, target in reversed(moved):
            with contextlib.suppress(OSError):
                os.rename(target, source)
        shutil.rmtree(old, ignore_errors=True)
        raise
    shutil.rmtree(old)
    stage.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
