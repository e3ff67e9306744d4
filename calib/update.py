"""More exposures added to a solution: all measurements, old and new, solved together from where the old ones rest.

The answer is that of a solve of all of them with the terms and the method of the older solution: no exposure is held
fixed, old ones profit, and errors are exact. What is saved is the choice of terms and methods and most passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.config import Config
from calib.tables.errors import InputError, count
from calib.tables.parts import Part
from calib.tables.reasons import UNUSED_REASONS
from calib.tables.sources import open_sources

if TYPE_CHECKING:
    from calib.pipeline import Progress
    from calib.solution import Solution

NEEDED = ("config", "inputs", "parts", "directory", "method", "model")
"""Keys of run.json that an update begins from."""
GROWN = 2.0
"""Times the rows that terms were chosen with, beyond which a warning says that more might be carried."""


@dataclass(frozen=True)
class Update:
    """What is to be solved.

    Attributes
    ----------
    older
        The solution that is added to.
    parts
        Its tables, and behind them the new ones.
    reference
        Its reference tables; None without any.
    config
        That of the older solution with its terms and its method asked for.
    """

    older: Solution
    parts: list[Part]
    reference: Any
    config: Config

    @classmethod
    def of(
        cls, older: Solution, night: Any, exposures: Any = None, *, columns: Mapping[str, str] | None = None,
        preset: str | None = None, match_radius: float | None = None, device: str | None = None,
        covariance: bool | None = None, workers: int | None = None, old: Any = None, old_exposures: Any = None,
        old_reference: Any = None,
    ) -> Update:  # fmt: skip
        """See `calib.solution.Solution.update`."""
        from calib.solution import SolutionError

        run, label = older.diagnostics, _label(older)
        if not all(key in run for key in NEEDED) or "start" not in run["model"]:
            raise SolutionError(f"{label}: run.json does not say what an update begins from; solve again")
        changed: dict[str, Any] = {
            "match_radius": match_radius, "device": device, "covariance": covariance, "workers": workers
        }  # fmt: skip
        if columns is not None or preset is not None:
            changed |= {"columns": dict(columns or {}), "preset": preset or ""}
        config = replace(
            Config.from_mapping(run["config"], f"{label}: run.json"), method=run["method"], **run["model"]["terms"],
            **{key: value for key, value in changed.items() if value is not None},
        )  # fmt: skip
        n = len(run["parts"])
        again = _Again(run["inputs"], run["directory"], label)
        measured = again.tables("measurements", _for_parts(old, n, "old"))
        around = again.tables("exposures", _for_parts(old_exposures, n, "old_exposures"))
        (reference,) = again.tables("reference", [old_reference])
        # a column that is left out is so everywhere, since all tables have the same
        left_out = {name: own for name, own in config.columns.items() if not own}
        parts = [
            Part(tables, conditions, asked["columns"] | left_out, asked["preset"])
            for tables, conditions, asked in zip(measured, around, run["parts"], strict=True)
        ]
        names = ({"star_id": ""} if run.get("association") else {}) | config.columns
        return cls(older, [*parts, Part(night, exposures, names, config.preset)], reference, config)

    @property
    def tables(self) -> dict[str, Any]:
        """All tables, as `calib solve` records its arguments."""
        exposures = [table for part in self.parts if part.exposures is not None for table in _listed(part.exposures)]
        return {
            "inputs": [table for part in self.parts for table in _listed(part.inputs)],
            "exposures": exposures or None,
            "reference": self.reference,
        }

    def solve(self, progress: Progress | None = None, *, keep_covariance: bool = False) -> Solution:
        """Solve for all exposures."""
        from calib.pipeline import calibrate

        found = calibrate(
            self.parts, None, self.reference, self.config, progress=progress, keep_covariance=keep_covariance,
            start=self.older,
        )  # fmt: skip
        run, then = found.diagnostics, self.older.diagnostics
        rows, had = run["counts"]["rows"], then["counts"]["rows"]
        chosen = then.get("updated_from", {}).get("rows_of_choice", had)
        run["method_reason"] = f"taken over from {_label(self.older)}"
        run["updated_from"] = {
            "folder": None if self.older.folder is None else str(self.older.folder), "version": then["version"],
            "rows": had, "exposures": self.older.frames["zeropoints"].height, "rows_of_choice": chosen,
        }  # fmt: skip
        if _usable(run) <= _usable(then):
            reasons = ((r.name, run["counts"].get(r.name, 0) - then["counts"].get(r.name, 0)) for r in UNUSED_REASONS)
            why = ", ".join(f"{n:,} {name}" for name, n in reasons if n > 0 and name not in {"usable", "isolated"})
            run["warnings"].append(f"no new rows: of {rows - had:,} that were added none can be used ({why})")
        if rows > GROWN * chosen:
            run["warnings"].append(
                f"terms and method were chosen with {chosen:,} rows, of which there are {rows:,} by now; "
                "solve anew to have them chosen with all"
            )
        return found


def _label(solution: Solution) -> str:
    return "the older solution" if solution.folder is None else str(solution.folder)


def _usable(run: dict[str, Any]) -> int:
    """Rows with which a solve began, used or of isolated exposures."""
    return int(run["counts"]["usable"] + run["counts"].get("isolated", 0))


def _listed(tables: Any) -> list[Any]:
    return tables if isinstance(tables, list) else [tables]


def _for_parts(given: Any, n: int, name: str) -> list[Any]:
    """What is given in place of the tables of each of n parts; None where these are read again."""
    if given is None or n == 1:
        return [given] * n
    if not isinstance(given, list | tuple) or len(given) != n:
        raise InputError(
            f"{name}: the solution was made of {n} sets of tables, one after the other; give a list of {n}, "
            "with None for those that lie where they were"
        )
    return list(given)


@dataclass(frozen=True)
class _Again:
    """What an older solution was made of, to be read again: its inputs as run.json has them, and where it was made."""

    records: list[dict[str, Any]]
    directory: str
    label: str

    def tables(self, kind: str, given: list[Any]) -> list[Any]:
        """Those of one kind of each part, None where it had none, all seen to be what they were.

        Raises
        ------
        InputError
            One is gone, or is another, or was in memory and is not given.
        """
        found: list[Any] = []
        for k, own in enumerate(given):
            mine = [record for record in self.records if (record["kind"], record["part"]) == (kind, k)]
            if own is not None:
                _same_tables(own, mine, kind, self.label)
            elif any(record["sha256"] is None for record in mine):
                name = "old" if kind == "measurements" else f"old_{kind}"
                raise InputError(
                    f"{mine[0]['path']}: {self.label} was made of {kind} in memory; "
                    f"give them again, as {name} of Solution.update"
                )
            found.append([self._file(record) for record in mine] or None if own is None else own)
        return found

    def _file(self, record: dict[str, Any]) -> str:
        path = Path(record["path"]).expanduser()
        there = next((p for p in (path, Path(self.directory) / path) if p.is_file()), None)
        if there is None:
            raise InputError(f"{path}: is gone, and {self.label} was made of it; put it back, or solve anew")
        (source,) = open_sources(str(there))
        if source.sha256() != record["sha256"]:
            raise InputError(
                f"{there}: has changed since {self.label} was made of it; put it back as it was, or solve anew"
            )
        return str(there)


def _same_tables(tables: Any, records: list[dict[str, Any]], kind: str, label: str) -> None:
    """As far as checksums and numbers of rows tell."""
    if not records:
        raise InputError(f"{label} was made without {kind}; leave them out, or solve anew")
    sources = open_sources(tables)
    sums = [record["sha256"] for record in records]
    rows, had = sum(source.rows or 0 for source in sources), sum(record["rows"] for record in records)
    told = all(source.rows is not None for source in sources)
    if (None not in sums and sums != [source.sha256() for source in sources]) or (told and rows != had):
        raise InputError(
            f"{sources[0].label}: is not what {label} was made of ({count(had, 'row')} of {kind}); solve anew"
        )
