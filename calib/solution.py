"""The answer as an object: tables, the graph, diagnostics; written to a folder and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.covariance import FILE, MOST_EXPOSURES, ZeropointCovariance, read_covariance, rows_of, write_covariance
from calib.model.rows import NamedRows
from calib.outcome import PerMeasurement
from calib.tables import write
from calib.tables.json_out import to_json
from calib.tables.schema import TOLD
from calib.tables.solution_tables import read_solution_tables
from calib.tables.stage import stage_folder

if TYPE_CHECKING:
    from calib.pipeline import Progress

ROWS = 1_000_000
"""Rows of a row group of measurements.parquet."""


class SolutionError(ValueError):
    """A folder that is not a solution; one line says what is missing."""


@dataclass
class Solution:
    """Zero-points, stars and terms of one run.

    Attributes
    ----------
    frames
        ``zeropoints``, ``stars``, ``terms`` as polars frames; units are in `calib.tables.COLUMNS`.
    diagnostics
        What run.json holds, where NaN is null.
    source
        The input's rows and one value for each; None in a solution read from a folder.
    folder
        Where it was read from.
    covariances
        What `covariance` is made of; None in a solution read from a folder, and of a large survey that was not asked to
        keep it.
    """

    frames: dict[str, pl.DataFrame]
    diagnostics: dict[str, Any]
    source: tuple[NamedRows, PerMeasurement] | None = None
    folder: Path | None = None
    covariances: ZeropointCovariance | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def scales(self) -> dict[str, str]:
        """``time_scale`` of mjd and ``magnitude_system`` of calibrated magnitudes, as far as the input says them."""
        said = self.diagnostics.get("scales") or {}
        return {name: said[name] for name in TOLD if said.get(name)}

    @property
    def zeropoints(self) -> Any:
        """Zero-points and observing conditions, astropy QTable, one row per exposure x band (x detector)."""
        return self._qtable("zeropoints")

    @property
    def stars(self) -> Any:
        """Calibrated stars, astropy QTable, one row per star x band."""
        return self._qtable("stars")

    @property
    def terms(self) -> Any:
        """Fitted terms shared by many exposures, astropy QTable."""
        return self._qtable("terms")

    @property
    def measurements(self) -> Any:
        """Calibrated measurements, astropy QTable, one row per input row, in input order."""
        if "measurements" not in self._cache:
            from calib.tables.astropy_out import to_qtable

            self._cache["measurements"] = to_qtable(self.measurement_frame(), "measurements", self.scales)
        return self._cache["measurements"]

    @property
    def graph(self) -> Any:
        """`graphs.ExposureGraph` of the measurements that were used; its nodes are the exposures of each band."""
        if "graph" not in self._cache:
            from graphs import MeasurementGraph

            frame = self.measurement_frame().filter(pl.col("used"))
            keys = [c for c in ("exposure_id", "band") if c in frame.columns]
            frame = frame.select(
                pl.concat_str([pl.col("star_id"), *(pl.col(k) for k in keys[1:])], separator=" ").alias("star_id"),
                pl.concat_str([pl.col(k) for k in keys], separator=" ").alias("exposure_id"),
            )
            self._cache["graph"] = MeasurementGraph.from_table(frame).exposure_graph()
        return self._cache["graph"]

    def covariance(self, exposure_ids: Any, band: Any = None, detector: Any = None) -> NDArray[np.float64]:
        """Covariance between the zero-points of chosen exposures, exact, in the gauge of the solution.

        Its diagonal is ``zeropoint_err ** 2``, with all that is in that: inflation and the references' scale act on a
        component together, unseen blends on all exposures of like seeing; what patches of a field share is each
        exposure's own.

        Parameters
        ----------
        exposure_ids
            (k,), or one.
        band, detector
            Of all of them, or one for each; may be left out where an exposure has one zero-point only.

        Returns
        -------
        (k, k), mag^2; NaN in rows and columns of exposures without zero-point.

        Raises
        ------
        calib.covariance.CovarianceError
            An exposure has no zero-point, or several.
        SolutionError
            The solution does not hold its covariance.
        """
        row = rows_of(self.frames["zeropoints"], exposure_ids, band, detector)
        if self.covariances is not None:
            return self.covariances.between(row)
        if self.folder is None:
            raise SolutionError(
                "this solution of a large survey kept no covariance: solve by calibrate(..., keep_covariance=True)"
            )
        path = self.folder / FILE
        if not path.is_file():
            raise SolutionError(
                f"{path}: there is no such file; solve again with --covariance, or ask the Solution of calibrate()"
            )
        if "covariance" not in self._cache:
            self._cache["covariance"] = read_covariance(path)
        return np.asarray(self._cache["covariance"][np.ix_(row, row)])

    def measurement_frame(self) -> pl.DataFrame:
        """Calibrated measurements as a polars frame."""
        if self.source is not None:
            return _frame(*self.source)
        assert self.folder is not None
        path = self.folder / "measurements.parquet"
        if not path.is_file():
            raise SolutionError(f"{path}: there is no such file; solve again to have the calibrated measurements")
        return pl.read_parquet(path)

    def _qtable(self, kind: Any) -> Any:
        if kind not in self._cache:
            from calib.tables.astropy_out import to_qtable

            self._cache[kind] = to_qtable(self.frames[kind], kind, self.scales)
        return self._cache[kind]

    def write(self, folder: str | Path, *, report: bool = True) -> None:
        """Write every file of a solution, whole or not at all; an older solution in the folder is replaced."""
        with stage_folder(folder) as stage:
            for name in ("zeropoints.ecsv", "zeropoints.parquet"):
                write.write_table(self.frames["zeropoints"], stage / name, "zeropoints", self.scales)
            write.write_table(self.frames["stars"], stage / "stars.parquet", "stars", self.scales)
            write.write_table(self.frames["terms"], stage / "terms.ecsv", "terms", self.scales)
            if self.source is not None:
                self._write_measurements(stage / "measurements.parquet")
            elif self.folder is not None and (self.folder / "measurements.parquet").is_file():
                import shutil

                shutil.copyfile(self.folder / "measurements.parquet", stage / "measurements.parquet")
            self._write_covariance(stage / FILE)
            (stage / "run.json").write_text(to_json(self.diagnostics), encoding="utf-8")
            if report:
                from calib.report import write_report

                write_report(stage)

    def _write_covariance(self, path: Path) -> None:
        """The whole matrix, where it was asked for."""
        zeropoints = self.frames["zeropoints"]
        if not self.diagnostics.get("config", {}).get("covariance", False) or zeropoints.height > MOST_EXPOSURES:
            return
        if self.covariances is not None:
            write_covariance(path, zeropoints, self.covariances.between(np.arange(zeropoints.height)))
        elif self.folder is not None and (self.folder / FILE).is_file():
            import shutil

            shutil.copyfile(self.folder / FILE, path)

    def _write_measurements(self, path: Path) -> None:
        assert self.source is not None
        rows, values = self.source
        with write.MeasurementWriter(path, self.scales) as writer:
            for start in range(0, len(rows), ROWS):
                part = slice(start, start + ROWS)
                writer.write(rows.part(part), **values.columns(part))

    @classmethod
    def read(cls, folder: str | Path) -> Solution:
        """Read a folder that `write` or ``calib solve`` made.

        Raises
        ------
        SolutionError
            The folder holds no solution.
        """
        folder = Path(folder)
        run = folder / "run.json"
        if not run.is_file():
            raise SolutionError(f"{folder}: there is no run.json; give a folder that `calib solve` wrote")
        try:
            diagnostics = json.loads(run.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SolutionError(f"{run}: is not JSON ({error})") from None
        tables = read_solution_tables(folder)
        terms = tables.terms if tables.terms is not None else pl.DataFrame()
        return cls({"zeropoints": tables.zeropoints, "stars": tables.stars, "terms": terms}, diagnostics, None, folder)

    def apply(
        self, more: Any, *, columns: dict[str, str] | None = None, exposures: Any = None,
        preset: str | None = None, match_radius: float | None = None,
    ) -> Any:  # fmt: skip
        """Calibrate more measurements of solved exposures: an astropy QTable in the order of the input.

        See `calib.apply.apply_stream` for tables larger than memory.
        """
        from calib.apply import apply_frames
        from calib.tables.astropy_out import to_qtable

        frames = list(apply_frames(self, more, columns, exposures, preset=preset, match_radius=match_radius))
        return to_qtable(pl.concat(frames), "measurements", self.scales)

    def update(
        self, night: Any, exposures: Any = None, *, columns: Mapping[str, str] | None = None,
        preset: str | None = None, match_radius: float | None = None, device: str | None = None,
        covariance: bool | None = None, workers: int | None = None, old: Any = None, old_exposures: Any = None,
        old_reference: Any = None, progress: Progress | None = None, keep_covariance: bool = False,
    ) -> Solution:  # fmt: skip
        """Add exposures: the solve of old and new measurements together, with the terms and the method of this one.

        Old tables are read again from where they were, and must not have changed.

        Parameters
        ----------
        night, exposures
            New measurements, and the table of their exposures, as for `calib.calibrate`. An exposure may have rows in
            old tables too; a row that does is a duplicate.
        columns, preset
            Of the new tables; those of the configuration when neither is given. A column mapped to nothing is left out
            of old tables too.
        match_radius, device, covariance, workers
            In place of those of the configuration.
        old, old_exposures, old_reference
            Old tables that were in memory; of a solution that was updated before a list with one for each time, None
            for those that were not.
        progress, keep_covariance
            As for `calib.calibrate`.

        Raises
        ------
        calib.tables.InputError
            A table cannot be used, or an old one is gone or has changed.
        SolutionError
            The solution does not say what it was made of.
        """
        from calib.update import Update

        update = Update.of(
            self, night, exposures, columns=columns, preset=preset, match_radius=match_radius, device=device,
            covariance=covariance, workers=workers, old=old, old_exposures=old_exposures, old_reference=old_reference,
        )  # fmt: skip
        return update.solve(progress, keep_covariance=keep_covariance)


def _frame(rows: NamedRows, values: PerMeasurement) -> pl.DataFrame:
    measurements = rows.part(slice(None))
    keys = measurements.keys
    return measurements.frame.select(keys).with_columns(
        *(pl.col(c).cast(pl.String) for c in keys if measurements.frame[c].dtype == pl.Enum),
        *(pl.Series(name, column) for name, column in values.columns().items()),
    )
