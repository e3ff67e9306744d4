"""More measurements of solved exposures put on the calibrated scale, batch by batch.

``calibrated_mag = mag + zeropoint + surface at the measurement's place + terms of its detector - star's response to
seeing``, of the stars and exposures of a solution. Memory holds the solution's zero-points and stars and one batch,
however long the input is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import MATCH_RADIUS
from calib.model.calibrator import Calibrator
from calib.solution import Solution
from calib.tables.columns import CONDITION_COLUMNS
from calib.tables.convert import Exptime
from calib.tables.errors import InputError, count
from calib.tables.ids import names_of_text
from calib.tables.measurements import Measurements, iter_measurements
from calib.tables.parts import UNSTATED, system_in_words
from calib.tables.star_finder import StarFinder
from calib.tables.write import ParquetSink, atomic_path

FORMATS = (".parquet", ".csv", ".fits", ".ecsv")
"""Endings of the file written; the first two are streamed, the others made in memory."""
_KEYS = ("star_id", "exposure_id", "band", "detector")


@dataclass
class Applied:
    """What happened to the rows.

    Attributes
    ----------
    rows
        Read and written.
    calibrated
        With a finite calibrated magnitude.
    without_error
        Those of them that have no error of their own: calibrated_mag_err is NaN.
    unknown_exposure
        Whose exposure (in this band, on this detector) is not in the solution.
    unsolved_exposure
        Whose exposure is in the solution without a zero-point.
    unusable
        Without a magnitude of their own, or with one that stands for missing.
    warnings
        Of the reader.
    """

    rows: int = 0
    calibrated: int = 0
    without_error: int = 0
    unknown_exposure: int = 0
    unsolved_exposure: int = 0
    unusable: int = 0
    warnings: list[str] = field(default_factory=list)


class Applier:
    """A solution made ready to calibrate rows.

    Parameters
    ----------
    solution
        With zero-points, stars, and the ``model`` of its diagnostics.

    Raises
    ------
    InputError
        The solution lacks the model, as one written by another program.
    """

    def __init__(self, solution: Solution) -> None:
        model = solution.diagnostics.get("model")
        if model is None:
            raise InputError(f"{solution.folder or 'solution'}: run.json has no model; solve again with calib solve")
        nodes, stars = solution.frames["zeropoints"], solution.frames["stars"]
        self.calibrator = Calibrator.of(nodes, model, solution.frames["terms"])
        self._nodes = nodes.select(
            *(c for c in ("exposure_id", "band", "detector") if c in nodes.columns),
            pl.int_range(nodes.height, dtype=pl.Int32).alias("_node"),
        )
        response = pl.col("seeing_response") if "seeing_response" in stars.columns else pl.lit(0.0)
        self._stars = stars.select(
            "star_id", "band", pl.col("mag").alias("_mag"), response.fill_null(0.0).fill_nan(0.0).alias("_response")
        )
        self._places = stars.select("star_id", "ra", "dec") if {"ra", "dec"} <= set(stars.columns) else None
        self._responds = "seeing_response" in stars.columns
        self.needs = self.calibrator.needs
        self.text_ids = names_of_text(self._nodes, self._stars)
        said = model.get("magnitudes")
        self._system = None if said is None else system_in_words(**said)
        self._has_bands = bool((nodes["band"] != "").any())
        self._times = nodes.select("exposure_id", "band", "exptime") if "exptime" in nodes.columns else None

    @property
    def exptime(self) -> Exptime | None:
        """Exposure times as the solution has them, of the rows of a frame of keys; None where it has none."""
        return None if self._times is None else self._exptime

    def _exptime(self, keys: pl.DataFrame) -> NDArray[np.float64]:
        assert self._times is not None
        if keys["exposure_id"].dtype != self._times["exposure_id"].dtype:
            return np.full(keys.height, np.nan)  # such rows are refused when they are calibrated
        on = [c for c in ("exposure_id", "band") if c in keys.columns]
        known = self._times.group_by(on).agg(pl.col("exptime").first())
        found = keys.select(on).join(known, on=on, how="left", maintain_order="left")
        return found["exptime"].fill_null(np.nan).to_numpy()

    def finder(self, label: str, match_radius: float) -> StarFinder:
        """Return what finds stars of the solution by position.

        Where stars have no position none is found, which rows bear if no term is a star's own.

        Raises
        ------
        InputError
            Stars have no position, and answer to seeing.
        """
        if self._places is not None:
            return StarFinder(self._places, match_radius)
        if self._responds:
            raise InputError(
                f"{label}: no column star_id, and stars of the solution, which answer to seeing each in its own way, "
                "have no ra and dec; map one with --columns star_id=THEIR_NAME"
            )
        nowhere = pl.DataFrame(schema={"star_id": self._stars["star_id"].dtype, "ra": pl.Float64, "dec": pl.Float64})
        return StarFinder(nowhere, match_radius)

    def __call__(self, measurements: Measurements) -> tuple[pl.DataFrame, NDArray[np.int32]]:
        """Calibrate rows: their keys, calibrated_mag, calibrated_mag_err, residual; and the node of each, -1 for none.

        residual is to the star's magnitude in the solution, NaN where it has none.
        """
        frame = measurements.frame
        self._same_system(measurements)
        for name in self.needs:
            if name not in frame.columns:
                raise InputError(
                    f"{_label(measurements)}: no column {name}, which the terms of this solution need; "
                    f"map one with --columns {name}=THEIR_NAME"
                )
        told = ("ra", "dec") if measurements.by_position else ()
        names = [c for c in (*_KEYS, *told) if c in frame]
        keys = frame.select(pl.col(c).cast(pl.String) if frame[c].dtype == pl.Enum else c for c in names)
        keys, node = self._find_nodes(keys, measurements)
        _same_type(keys, self._stars, "star_id", measurements)
        found = keys.select("star_id", "band").join(
            self._stars, on=["star_id", "band"], how="left", maintain_order="left"
        )
        response = found["_response"].fill_null(0.0).to_numpy()
        mag, err = self.calibrator(frame, node, response)
        residual = mag - found["_mag"].fill_null(np.nan).to_numpy()
        # the same for every batch: by what the tables and the solution have, not by what its rows hold
        known = {"star_id", "exposure_id"} | ({"band"} if self._has_bands else set())
        shown = [c for c in _KEYS if c in known or measurements.has(c)] + list(told)
        return keys.select(shown).with_columns(
            pl.Series("calibrated_mag", mag),
            pl.Series("calibrated_mag_err", err.astype(np.float32)),
            pl.Series("residual", residual.astype(np.float32)),
        ), node

    def _same_system(self, measurements: Measurements) -> None:
        """Refuse magnitudes of a stated system that is not the solution's; a column without a unit states none."""
        said = system_in_words(measurements.system, measurements.undivided)
        if self._system in (None, said) or UNSTATED in (said, self._system):
            return
        hint = "give one system, by the unit of the column"
        if measurements.undivided and self._system == "instrumental":
            hint = "map exposure times with --columns exptime=THEIR_NAME"
        elif measurements.system == "instrumental" and self._system == system_in_words("", True):
            hint = "give counts, and leave exposure times out with --columns exptime="
        raise InputError(f"{_label(measurements)}: magnitudes are {said} and in the solution {self._system}; {hint}")

    def _find_nodes(self, keys: pl.DataFrame, measurements: Measurements) -> tuple[pl.DataFrame, NDArray[np.int32]]:
        """Node of each row; where the measurements have no band, that of the exposure."""
        nodes = self._nodes
        _same_type(keys, nodes, "exposure_id", measurements)
        if "detector" in nodes.columns:
            if "detector" not in keys.columns:
                raise InputError(
                    f"{_label(measurements)}: no column detector, and this solution has a zero-point for each; "
                    "map one with --columns detector=THEIR_NAME"
                )
            nodes = nodes.with_columns(pl.col("detector").cast(pl.String))
        if not measurements.has("band"):
            bands = nodes.select("exposure_id", "band").unique()
            several = bands.height - bands["exposure_id"].n_unique()
            if several:
                raise InputError(
                    f"{_label(measurements)}: no column band, and {count(several, 'exposure')} of this solution have "
                    "several; map one with --columns band=THEIR_NAME"
                )
            keys = keys.drop("band").join(bands, on="exposure_id", how="left", maintain_order="left")
            keys = keys.with_columns(pl.col("band").fill_null(""))
        on = [c for c in ("exposure_id", "band", "detector") if c in nodes.columns]
        wanted = keys.select(pl.col(c).cast(pl.String) if c == "detector" else c for c in on)
        found = wanted.join(nodes, on=on, how="left", maintain_order="left")
        return keys, found["_node"].fill_null(-1).to_numpy()


def apply_frames(
    solution: Solution,
    inputs: Any,
    columns: Mapping[str, str] | None = None,
    exposures: Any = None,
    *,
    preset: str | None = None,
    match_radius: float | None = None,
    applied: Applied | None = None,
) -> Iterator[pl.DataFrame]:
    """Calibrate measurements of solved exposures, a batch at a time, in input order.

    Parameters
    ----------
    solution
        From `calibrate` or `Solution.read`.
    inputs
        As for `calibrate`.
    columns, preset
        Canonical to own name, and the survey whose names columns have otherwise; those of the solution's configuration
        when neither is given.
    exposures
        Only for bands, and for exposure times where fluxes are counts; conditions are those of the solution, and so
        are exposure times that no table has.
    match_radius
        How far rows without star_id may lie from the star of the solution that they are taken to be of, arcsec; that of
        the solution's configuration when not given.
    applied
        Counts, kept up to date.

    Yields
    ------
    polars.DataFrame
        star_id (null where no star of the solution lies within the match radius), exposure_id, band and detector where
        known, ra and dec where stars are told by them, calibrated_mag, calibrated_mag_err, residual. NaN where the
        exposure has no zero-point or the row no magnitude.

    Raises
    ------
    InputError
        A table cannot be used as it is.
    """
    apply = Applier(solution)
    applied = Applied() if applied is None else applied
    spare: tuple[str, ...] = ()
    configured = solution.diagnostics.get("config", {})
    if columns is None and preset is None:
        columns, preset = configured.get("columns", {}), configured.get("preset", "")
        spare = tuple(CONDITION_COLUMNS)  # conditions are those of the solution: nobody has to give them again
    if solution.diagnostics.get("association"):
        columns = {"star_id": "", **(columns or {})}  # stars have names of our own: theirs are of others
    radius = configured.get("match_radius", MATCH_RADIUS) if match_radius is None else match_radius
    batches = iter_measurements(
        inputs, columns=columns, exposures=exposures, spare=spare, exptime=apply.exptime, text_ids=apply.text_ids,
        stars=lambda label: apply.finder(label, radius), preset=preset or "",
    )
    for measurements in batches:
        frame, node = apply(measurements)
        finite = np.isfinite(frame["calibrated_mag"].to_numpy())
        known = np.where(node >= 0, np.isfinite(apply.calibrator.zeropoint[node]), False)
        applied.rows += frame.height
        applied.calibrated += int(finite.sum())
        applied.without_error += int((finite & ~np.isfinite(frame["calibrated_mag_err"].to_numpy())).sum())
        applied.unknown_exposure += int((node < 0).sum())
        applied.unsolved_exposure += int(((node >= 0) & ~known).sum())
        applied.unusable += int((known & ~finite).sum())
        applied.warnings += [w for w in measurements.warnings if w not in applied.warnings]
        yield frame


def apply_stream(
    solution: Solution,
    inputs: Any,
    out: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    exposures: Any = None,
    *,
    preset: str | None = None,
    match_radius: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Applied:
    """Calibrate measurements of solved exposures into a file, which appears whole or not at all.

    Parameters
    ----------
    solution, inputs, columns, exposures, preset, match_radius
        As for `apply_frames`.
    out
        Ends in .parquet or .csv, which are streamed, or .fits or .ecsv, for which the whole table is held in memory.
    progress
        Called with the number of rows so far.

    Raises
    ------
    InputError
        A table cannot be used as it is, or `out` has another ending, or is FITS and a name is not ASCII.
    """
    ending = Path(out).suffix.lower()
    applied = Applied()

    def frames() -> Iterator[pl.DataFrame]:
        options: dict[str, Any] = {"preset": preset, "match_radius": match_radius, "applied": applied}
        for frame in apply_frames(solution, inputs, columns, exposures, **options):
            yield frame
            if progress is not None:
                progress(applied.rows)

    if ending == ".parquet":
        with ParquetSink(out, "measurements", solution.scales) as sink:
            for frame in frames():
                sink.write(frame)
    elif ending == ".csv":
        with atomic_path(out) as temporary, temporary.open("wb") as stream:
            for frame in frames():
                frame.write_csv(stream, include_header=stream.tell() == 0)
    elif ending in FORMATS:
        from calib.tables.astropy_out import check_fits, to_qtable

        parts = []
        for frame in frames():
            if ending == ".fits":
                check_fits(frame, str(out))
            parts.append(frame)
        table = to_qtable(pl.concat(parts), "measurements", solution.scales)
        with atomic_path(out) as temporary:
            table.write(temporary, format="fits" if ending == ".fits" else "ascii.ecsv")
    else:
        raise InputError(f"{out}: cannot be written; give a name that ends in {', '.join(FORMATS)}")
    return applied


def _same_type(keys: pl.DataFrame, theirs: pl.DataFrame, name: str, measurements: Measurements) -> None:
    if keys[name].dtype != theirs[name].dtype:
        raise InputError(
            f"{_label(measurements)}: {name} is {keys[name].dtype} and in the solution {theirs[name].dtype}; "
            "give it the type that it had in the solve"
        )


def _label(measurements: Measurements) -> str:
    return str(measurements.inputs[0]["path"]) if measurements.inputs else "measurements"
