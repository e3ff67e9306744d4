"""Simulated surveys, in memory or streamed to Parquet: the same survey by both ways."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.simulate.clouds import CloudView
from calib.simulate.conditions import Conditions, draw_conditions
from calib.simulate.focalplane import FocalPlane
from calib.simulate.layouts import Pointings, pointings
from calib.simulate.photometry import Block, Camera
from calib.simulate.presets import PRESETS
from calib.simulate.processes import Nights
from calib.simulate.screens import Screens
from calib.simulate.seeds import Part, generator
from calib.simulate.spec import SpecError, SurveySpec
from calib.simulate.stars import STAR_BITS, Sky, Star
from calib.simulate.variability import KINDS
from calib.simulate.variability import rms as variability_rms

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetWriter

_BLOCK_MEASUREMENTS = 40_000
_TRUTH = ("sigma", "sigma_total", "systematic", "outlier", "outlier_offset", "noise")


@dataclass(frozen=True)
class Survey:
    """A simulated survey and its truth, as polars frames.

    mag = truth_stars.mag - truth_exposures.zeropoint + systematic + outlier_offset + noise, row by row.

    Attributes
    ----------
    measurements
        star_id, exposure_id, band, mag, mag_err, and where not withheld detector, x, y, ra, dec, color, flag.
    exposures
        exposure_id, mjd, night, airmass, seeing, sky, exptime, ra, dec.
    truth_exposures
        exposure_id, band, zeropoint, cloud, photometric, extinction_coefficient, excess_noise, error_scale, floor,
        structure_rms, surface_x, surface_y (mag over the half field, added to mag, along the focal plane's u and v),
        rotation (deg), group.
    truth_stars
        star_id, band, mag, color, variable, kind, amplitude, variability_rms, blend_ratio, blend_separation.
    truth_measurements
        Row by row with measurements: sigma, the standard deviation of noise; sigma_total, with the star's rms
        variability and the rms structure of the exposure's field added, which is all that weights can know;
        systematic, all deterministic departures; outlier, outlier_offset, noise.
    """

    measurements: pl.DataFrame
    exposures: pl.DataFrame
    truth_exposures: pl.DataFrame
    truth_stars: pl.DataFrame
    truth_measurements: pl.DataFrame

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write each frame as ``<name>.parquet`` in a folder, made where it is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            partial = folder / f".{field.name}.parquet.partial"
            getattr(self, field.name).write_parquet(partial, compression="zstd")
            partial.replace(folder / f"{field.name}.parquet")


class Simulation:
    """A survey ready to be observed; holds the exposures' conditions but no measurements.

    Parameters
    ----------
    spec : SurveySpec
        What survey.
    seed : int
        Not negative; the same spec and seed give the same survey.

    Raises
    ------
    SpecError
        If the seed is negative or the fields do not fit on the sky.
    """

    def __init__(self, spec: SurveySpec, seed: int) -> None:
        if seed < 0:
            raise SpecError(f"seed is {seed}; give a whole number of at least 0")
        self.spec, self.seed = spec, seed
        self.pointings: Pointings = pointings(spec, generator(seed, Part.POINTINGS))
        self.plane = FocalPlane.draw(spec, generator(seed, Part.FLATS))
        nights = Nights.draw(spec, generator(seed, Part.NIGHTS))
        rng = generator(seed, Part.SCREENS)
        view = CloudView.draw(spec, nights, self.pointings.ra, self.pointings.dec, Screens.draw(rng), rng)
        rng = generator(seed, Part.EXPOSURES)
        self.conditions: Conditions = draw_conditions(spec, self.pointings, self.plane, view, nights, rng)
        self.sky = Sky(spec, seed, self.pointings)
        self.camera = Camera(spec, self.sky, self.plane, self.pointings, self.conditions)
        self._seen: dict[int, NDArray[np.bool_]] = {}
        # few dithers of the drawn exposures' noise belong in the tables: what an observer reports is itself measured
        self._reported = 1 + 0.02 * rng.standard_normal(spec.n_exposures), 0.03 * rng.standard_normal(spec.n_exposures)

    def frames(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Observe block by block; yields measurements and truth_measurements of each, aligned."""
        n = self.spec.n_exposures
        per_exposure = max(1.0, self.sky.density * self.spec.fov_deg**2)
        step = int(np.clip(_BLOCK_MEASUREMENTS / per_exposure, 1, 4096))
        for number, start in enumerate(range(0, n, step)):
            exposures = np.arange(start, min(start + step, n))
            block = self.camera.observe(exposures, generator(self.seed, Part.BLOCK, number))
            self._mark(block.star_id)
            yield self._measurements(block), pl.DataFrame({name: getattr(block, name) for name in _TRUTH})

    def exposures(self) -> pl.DataFrame:
        """Return the table of exposures that an observer has."""
        c, p = self.conditions, self.pointings
        table = pl.DataFrame(
            {
                "exposure_id": c.exposure_id, "mjd": c.mjd, "night": c.night, "airmass": c.airmass,
                "seeing": c.seeing * self._reported[0], "sky": c.sky + self._reported[1], "exptime": c.exptime,
                "ra": p.ra, "dec": p.dec,
            }
        )  # fmt: skip
        if "exposures" in self.spec.drop:
            return table.select("exposure_id")
        return table.drop([name for name in self.spec.drop if name in table.columns])

    def truth_exposures(self) -> pl.DataFrame:
        """Return the truth of the exposures."""
        c = self.conditions
        return pl.DataFrame(
            {
                "exposure_id": c.exposure_id, "band": self._band(self.pointings.band), "zeropoint": c.zeropoint,
                "cloud": c.cloud, "photometric": c.cloud == 0, "extinction_coefficient": c.extinction,
                "excess_noise": c.excess_noise, "error_scale": c.error_scale, "floor": c.floor,
                "structure_rms": c.structure_rms, "surface_x": c.surface_x, "surface_y": c.surface_y,
                "rotation": np.degrees(c.angle), "group": self.pointings.group,
            }
        )  # fmt: skip

    def truth_stars(self) -> Iterator[pl.DataFrame]:
        """Yield the truth of the stars measured so far, some cells of the sky at a time, a row per star and band."""
        cells = sorted(self._seen)
        for start in range(0, len(cells), 500):
            parts = [self.sky.cell(cell)[:, self._seen[cell]] for cell in cells[start : start + 500]]
            stars = np.concatenate(parts, axis=1)
            kind = stars[Star.KIND].astype(np.int64)
            amplitude = stars[Star.AMPLITUDE]
            shared = pl.DataFrame(
                {
                    "star_id": stars[Star.ID].astype(np.int64), "color": stars[Star.COLOR], "variable": kind > 0,
                    "kind": pl.Series(kind).replace_strict(dict(enumerate(KINDS)), return_dtype=pl.String),
                    "amplitude": amplitude, "variability_rms": variability_rms(kind, amplitude),
                    "blend_ratio": stars[Star.BLEND_RATIO], "blend_separation": stars[Star.BLEND_SEPARATION],
                }
            )  # fmt: skip
            for i, band in enumerate(self.spec.bands):
                mag = self.camera.magnitude(stars, np.full(stars.shape[1], i))
                yield shared.select("star_id", pl.lit(band).alias("band"), pl.Series("mag", mag), pl.exclude("star_id"))

    def _measurements(self, block: Block) -> pl.DataFrame:
        columns = {
            "star_id": block.star_id,
            "exposure_id": self.conditions.exposure_id[block.exposure],
            "band": self._band(self.pointings.band[block.exposure]),
            "detector": block.detector,
            "mag": block.mag,
            "mag_err": block.mag_err,
            "x": block.x.astype(np.float32),
            "y": block.y.astype(np.float32),
            "ra": block.ra,
            "dec": block.dec,
            "color": block.color,
            "flag": block.flag,
        }
        without = set(self.spec.drop)
        if self.spec.n_detectors == 1:
            without.add("detector")
        if not self.spec.flag_saturated:
            without.add("flag")
        return pl.DataFrame({name: column for name, column in columns.items() if name not in without})

    def _band(self, index: NDArray[np.int64]) -> pl.Series:
        return pl.Series(self.spec.bands).gather(pl.Series(index))

    def _mark(self, star_id: NDArray[np.int64]) -> None:
        """Remember which stars of which cells were measured."""
        ids = np.sort(star_id)
        cell = ids >> STAR_BITS
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        for number, members in zip(cell[starts].tolist(), np.split(ids, starts[1:]), strict=True):
            if number not in self._seen:
                self._seen[number] = np.zeros(self.sky.cell(number).shape[1], np.bool_)
            self._seen[number][members & ((1 << STAR_BITS) - 1)] = True


def simulate(spec: SurveySpec, seed: int) -> Survey:
    """Simulate a survey in memory: what `write_survey` streams, with the rows of all exposures shuffled together.

    Parameters
    ----------
    spec : SurveySpec
        What survey.
    seed : int
        Not negative; the same spec and seed give the same survey.

    Raises
    ------
    SpecError
        If the seed is negative or the fields do not fit on the sky.
    """
    simulation = Simulation(spec, seed)
    measured, truth = zip(*simulation.frames(), strict=True)
    measurements, truth_measurements = pl.concat(measured), pl.concat(truth)
    order = generator(seed, Part.SHUFFLE).permutation(measurements.height)
    return Survey(
        measurements=measurements[order],
        exposures=simulation.exposures(),
        truth_exposures=simulation.truth_exposures(),
        truth_stars=pl.concat(list(simulation.truth_stars())),
        truth_measurements=truth_measurements[order],
    )


def write_survey(
    spec: SurveySpec,
    seed: int,
    folder: str | os.PathLike[str],
    chunk: int = 1_000_000,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Stream a survey of any size to Parquet in bounded memory; returns the number of measurements.

    The files are those of `Survey.write`; rows are shuffled within blocks of exposures only.

    Parameters
    ----------
    spec : SurveySpec
        What survey.
    seed : int
        Not negative.
    folder : path
        Made where it is not there.
    chunk : int
        Rows of a row group, about.
    progress : callable, optional
        Called with the number of measurements so far.

    Raises
    ------
    SpecError
        If the seed is negative, chunk is not positive, or the fields do not fit on the sky.
    """
    if chunk < 1:
        raise SpecError(f"chunk is {chunk}; give at least one row")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    simulation = Simulation(spec, seed)
    simulation.exposures().write_parquet(folder / "exposures.parquet")
    simulation.truth_exposures().write_parquet(folder / "truth_exposures.parquet")
    measurements = _Writer(folder / "measurements.parquet", chunk)
    truth = _Writer(folder / "truth_measurements.parquet", chunk)
    try:
        for measured, known in simulation.frames():
            measurements.add(measured)
            truth.add(known)
            if progress is not None:
                progress(measurements.rows)
        stars = _Writer(folder / "truth_stars.parquet", chunk)
        for frame in simulation.truth_stars():
            stars.add(frame)
    except BaseException:
        measurements.abandon()
        truth.abandon()
        raise
    for writer in (measurements, truth, stars):
        writer.finish()
    return measurements.rows


def simulate_to_folder(
    preset: str,
    seed: int,
    n_exposures: int | None = None,
    n_stars: int | None = None,
    *,
    out: str | os.PathLike[str],
    progress: Callable[[int], None] | None = None,
) -> int:
    """Simulate a preset, with another number of exposures or stars where given; returns the number of measurements.

    The number of nights follows the number of exposures. n_stars is that over the whole footprint.

    Raises
    ------
    SpecError
        If there is no such preset, or the numbers cannot be had.
    """
    if preset not in PRESETS:
        raise SpecError(f"preset is {preset!r}; there are {', '.join(PRESETS)}")
    spec = PRESETS[preset]
    if n_exposures is not None:
        nights = round(spec.nights * n_exposures / spec.n_exposures)
        spec = replace(spec, n_exposures=n_exposures, nights=int(np.clip(nights, 1, max(1, n_exposures))))
    if n_stars is not None:
        spec = replace(spec, n_stars=n_stars)
    return write_survey(spec, seed, out, progress=progress)


class _Writer:
    """Gathers frames to row groups of about chunk rows; the file appears under its name when finished."""

    def __init__(self, path: Path, chunk: int) -> None:
        self.path, self.chunk, self.rows = path, chunk, 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._held: list[pl.DataFrame] = []
        self._waiting = 0
        self._file: ParquetWriter | None = None

    def add(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        self._waiting += frame.height
        self.rows += frame.height
        if self._waiting >= self.chunk:
            self._flush()

    def finish(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
            self._partial.replace(self.path)

    def abandon(self) -> None:
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._held:
            return
        from pyarrow.parquet import ParquetWriter

        table = pl.concat(self._held).to_arrow()
        self._held, self._waiting = [], 0
        if self._file is None:
            self._file = ParquetWriter(self._partial, table.schema, compression="lz4", use_dictionary=["band"])
        self._file.write_table(table)
