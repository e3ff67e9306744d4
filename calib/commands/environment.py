"""Environment variables that mirror the options."""

from __future__ import annotations

import argparse
import os

CONFIGURED = frozenset({"method", "device", "columns", "no_adapt", "covariance", "match_radius", "workers"})
"""Options that a configuration file may set too, and that come before the environment there."""
PRESET = {"preset"}
"""One more, of commands that take such a file: that of `calib simulate` is another thing."""
_YES, _NO = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


def variable(option: str) -> str | None:
    """Return the value of the variable that mirrors an option; None where it is unset or empty."""
    return os.environ.get(f"CALIB_{option.upper()}") or None


def switch(option: str) -> bool | None:
    """Return whether the variable that mirrors an option without a value sets it; None where it is unset or empty.

    Raises
    ------
    ConfigError
        It says neither yes nor no.
    """
    value = variable(option)
    if value is None or value.lower() in _YES | _NO:
        return None if value is None else value.lower() in _YES
    from calib.config import ConfigError

    raise ConfigError(f"CALIB_{option.upper()} is {value!r}; it is 1 or 0")


def set_defaults(command: argparse.ArgumentParser) -> None:
    """Make the variables that are set the defaults of a command's options; they are then not required.

    A value that the option does not take is refused when the option is not given on the command line.
    """
    configured = CONFIGURED | (PRESET if any(a.dest == "config" for a in command._actions) else set())
    for action in command._actions:
        if not action.option_strings or action.dest == "help":
            continue
        value = variable(action.dest)
        if value is None or action.dest in configured:
            continue
        action.required = False
        if action.nargs == 0:
            if value.lower() in _YES:
                action.default = True
            elif value.lower() not in _NO:
                action.default = Refused(f"CALIB_{action.dest.upper()} is {value!r}; it is 1 or 0")
        elif action.choices is not None and value not in action.choices:
            action.default = Refused(
                f"CALIB_{action.dest.upper()} is {value!r}; it is one of {', '.join(map(str, action.choices))}"
            )
        else:
            action.default = value  # argparse converts text by the option's type


class Refused(str):
    """A value that cannot be used, and why."""

    __slots__ = ()


def refuse(args: argparse.Namespace) -> None:
    """Raise ConfigError if a value from the environment is left that cannot be used."""
    for value in vars(args).values():
        if isinstance(value, Refused):
            from calib.config import ConfigError

            raise ConfigError(str(value))
