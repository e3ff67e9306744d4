"""Options that commands share, resolved: columns, configuration, output folder, progress."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from calib.commands.environment import switch, variable
from calib.config import DEVICES, METHODS, SURVEYS, Config, ConfigError
from calib.tables.errors import InputError

SWITCHES = {"no_adapt": ("adapt", False), "covariance": ("covariance", True)}
"""Options without a value that set a key of the configuration, and to what."""


def check_device(device: str, command: str) -> None:
    """Refuse a GPU that is not there.

    Raises
    ------
    ConfigError
        ``cuda`` was asked for and PyTorch finds none.
    """
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no NVIDIA GPU here; use --device auto or cpu")
    print(f"{command}: networks run on the GPU; the sparse Cholesky factor runs on the CPU", file=sys.stderr)


def config_of(args: argparse.Namespace) -> Config:
    """Return the configuration: the command line before the file of --config before the environment.

    Raises
    ------
    ConfigError
        A value cannot be used; the message says where it was given.
    """
    return Config.from_mapping(given_of(args))


def given_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return those keys and values of `config_of` that were given.

    Raises
    ------
    ConfigError
        As of `config_of`.
    """
    values: dict[str, Any] = {}
    columns = parse_columns([variable("columns") or ""], "CALIB_COLUMNS")
    for name, allowed in (("method", METHODS), ("device", DEVICES), ("preset", SURVEYS)):
        value = variable(name)
        if value is not None:
            if value not in allowed:
                raise ConfigError(f"CALIB_{name.upper()} is {value!r}; it is one of {', '.join(allowed)}")
            values[name] = value
    values |= {name: on for option, (name, on) in SWITCHES.items() if switch(option)}
    if (radius := variable("match_radius")) is not None:
        try:
            values["match_radius"] = float(radius)
        except ValueError:
            raise ConfigError(f"CALIB_MATCH_RADIUS is {radius!r}; it is in arcsec") from None
    if (workers := variable("workers")) is not None:
        try:
            values["workers"] = int(workers)
        except ValueError:
            raise ConfigError(f"CALIB_WORKERS is {workers!r}; it is a whole number, not negative") from None
    if getattr(args, "config", None) is not None:
        given = _from_file(args.config)
        columns |= given.pop("columns", {})
        values |= given
    for name in ("method", "device", "match_radius", "preset", "workers"):
        if getattr(args, name, None) is not None:
            values[name] = getattr(args, name)
    values |= {name: on for option, (name, on) in SWITCHES.items() if getattr(args, option, False)}
    columns |= parse_columns(args.columns or [], "--columns")
    values["columns"] = columns
    Config.from_mapping(values)
    return values


def _from_file(path: str) -> dict[str, Any]:
    """Keys and values that stand in a file, checked as a whole."""
    Config.from_toml(path)
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def parse_columns(texts: list[str], where: str) -> dict[str, str]:
    """Parse ``A=B,C=D``.

    Parameters
    ----------
    texts
        Each is a list of pairs; later ones come before earlier ones.
    where
        What the message calls them.

    Raises
    ------
    ConfigError
        A pair is not of the form A=B.
    """
    out: dict[str, str] = {}
    for pair in (p.strip() for text in texts for p in text.split(",")):
        name, equals, own = pair.partition("=")
        if pair and not (equals and name.strip()):
            raise ConfigError(f"{where}: {pair!r} is not of the form A=B, as in mag=mag_inst")
        if pair:
            out[name.strip()] = own.strip()
    return out


def check_folder(out: str) -> None:
    """See at once, not after an hour, that a folder can be written.

    Raises
    ------
    InputError
        It cannot.
    """
    final = Path(out).absolute()
    if final.exists() and not final.is_dir():
        raise InputError(f"{out}: is a file; give a folder with --out")
    _try_to_write(out, final)


def keep_inputs(out: str, names: Iterable[str | None]) -> None:
    """Refuse to write a solution over one of the tables it is made of, or among those of a folder.

    Raises
    ------
    InputError
        It would replace or join one of them.
    """
    from calib.tables.stage import SOLUTION_FILES

    folder = Path(out).resolve()
    for name in names:
        if name is not None and Path(name).resolve() in {folder, *(folder / file for file in SOLUTION_FILES)}:
            raise InputError(f"{out}: a solution in it would replace or join the input {name}; give another --out")


def check_file(out: str) -> None:
    """See at once that a file can be written.

    Raises
    ------
    InputError
        It cannot.
    """
    final = Path(out).absolute()
    if final.is_dir():
        raise InputError(f"{out}: is a folder; give a file with --out")
    if not final.parent.is_dir():
        raise InputError(f"{out}: there is no folder {final.parent}; make it, or give another file with --out")
    _try_to_write(out, final.parent)


def _try_to_write(out: str, folder: Path) -> None:
    while not folder.exists():
        if folder.is_symlink():
            raise InputError(f"{out}: {folder} is a link to nothing; give another --out")
        folder = folder.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".calib.", suffix=".part", dir=folder))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({folder}: {error.strerror}); give another --out") from None


class Progress:
    """A line on a terminal that says how far the work is; nothing in a pipe or when quiet.

    Parameters
    ----------
    quiet
        Whether to say nothing anyhow.
    """

    def __init__(self, quiet: bool) -> None:
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(bar_format="{desc} [{elapsed}]", file=sys.stderr, leave=False)

    def __call__(self, stage: str, number: int, change: float) -> None:
        """Show the stage of a solve, its pass, and how far zero-points moved in it, in their errors."""
        moved = (
            f", zero-points moved {change:.3f} of their errors" if change == change and change != float("inf") else ""
        )
        self.say(stage + (f", pass {number}" if number else "") + moved)

    def say(self, text: str) -> None:
        """Show a text."""
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(1)
            self._bar.refresh()

    def close(self) -> None:
        """Wipe the line."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Give a `Progress` that is wiped at the end."""
    shown = Progress(quiet)
    try:
        yield shown
    finally:
        shown.close()
