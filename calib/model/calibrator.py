"""Magnitudes on the calibrated scale: mag + zeropoint + terms at the measurement's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.by_magnitude import MagnitudeTerms
from calib.model.camera import ColorScale, DetectorTerms, Flat
from calib.model.field import Field, Places
from calib.model.problem import standardised

Array = NDArray[np.float64]

SURFACE_COLUMNS = ("surface_x", "surface_y", "surface_xx", "surface_xy", "surface_yy")
"""Coefficients of x, y, x^2 - c, x y, y^2 - c, in the order of the basis."""
LATENT_SEEING = "latent_seeing"
"""What stars answer to where no seeing is given (`calib.solve.latent`)."""


@dataclass(frozen=True)
class Calibrator:
    """What turns a measurement into a calibrated one.

    Attributes
    ----------
    zeropoint, zeropoint_err, error_scale, variance
        (E,), per node; variance is floor^2 + excess^2, mag^2.
    surface
        (E, 5), coefficients over the half field, 0 where not solved.
    by_magnitude
        What exposures do to stars by their magnitude.
    seeing
        (E,), standardised power of the seeing, or the latent one; 0 where unknown.
    centre_ra, centre_dec
        (E,), deg; None without a field on the sky.
    field
        Places in the field; None without surfaces.
    detectors
        Names of the detectors whose bounds the field holds, in its order.
    instrument
        Terms of detectors; None without any.
    flat
        The star flat of one detector; None without one.
    """

    zeropoint: Array
    zeropoint_err: Array
    error_scale: Array
    variance: Array
    surface: Array
    by_magnitude: MagnitudeTerms
    seeing: Array
    centre_ra: Array | None
    centre_dec: Array | None
    field: Field | None
    detectors: list[str]
    instrument: DetectorTerms | None
    flat: Flat | None = None

    @classmethod
    def of(cls, zeropoints: pl.DataFrame, model: dict[str, Any], terms: pl.DataFrame) -> Calibrator:
        """From the tables of zero-points and terms, and the ``model`` of run.json."""

        def column(name: str, missing: float) -> Array:
            if name not in zeropoints.columns:
                return np.full(zeropoints.height, missing)
            return zeropoints[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

        floors = model["floor_mag"]
        floor = np.array([floors[str(b)] for b in zeropoints["band"]], float) if zeropoints.height else np.zeros(0)
        field = None if model["field"] is None else Field(**model["field"])
        scale = model["seeing_scale"]
        seeing = np.nan_to_num(column(LATENT_SEEING, 0.0))
        if scale is not None:
            seeing = standardised(column("seeing", np.nan), tuple(scale))
        sky = field is not None and field.kind == "sky"
        color = model.get("color_scale")
        instrument = DetectorTerms.of(terms, zeropoints["band"], None if color is None else ColorScale(*color))
        return cls(
            column("zeropoint", np.nan), column("zeropoint_err", np.nan), column("error_scale", 1.0),
            floor**2 + np.nan_to_num(column("excess_noise", 0.0)) ** 2,
            np.stack([np.nan_to_num(column(c, 0.0)) for c in SURFACE_COLUMNS], 1),
            MagnitudeTerms.of(lambda name: column(name, 0.0)), seeing,
            column("ra", np.nan) if sky else None, column("dec", np.nan) if sky else None, field, model["detectors"],
            instrument, Flat.of(terms, zeropoints["band"]),
        )  # fmt: skip

    def __call__(self, frame: pl.DataFrame, node: NDArray[np.integer], response: Array) -> tuple[Array, Array]:
        """Calibrated magnitude and its standard error, mag, of every row; NaN where the node has no zero-point.

        Both are NaN where the row has no magnitude, and the error where the row has none.

        The error is that of the measurement under the noise model and that of the zero-point, in quadrature; the star's
        own variability and the surface's error are not in it.

        Parameters
        ----------
        frame
            mag, mag_err, and x, y, ra, dec, detector, color where the terms need them.
        node
            (n,), node of each row, -1 for none.
        response
            (n,), the row's star's response to seeing, mag; 0 where unknown.
        """
        at = np.where(node >= 0, node, 0)
        xy = self._places(frame, at) if self.field is not None and self.needs_places else None
        mag = frame["mag"].to_numpy()
        if self.flat is not None and xy is not None:
            mag = mag + self.flat(xy, at)
        if self.instrument is not None:
            mag = mag + self.instrument(frame, at)
        return self.at_places(mag, frame["mag_err"].to_numpy(), node, xy, response)

    @property
    def needs_places(self) -> bool:
        """Whether a measurement's place in the field matters."""
        return bool(self.surface.any()) or self.flat is not None

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns without which terms cannot be applied."""
        own = () if self.instrument is None else self.instrument.needs
        if self.field is None or not self.needs_places:
            return own
        if self.field.kind == "sky":
            return ("ra", "dec", *own)
        places = ("x", "y", "detector") if self.field.n_detectors > 1 else ("x", "y")
        return (*places, *(c for c in own if c not in places))

    def at_places(
        self, mag: Array, mag_err: NDArray[np.floating], node: NDArray[np.integer], xy: Places | None, response: Array
    ) -> tuple[Array, Array]:
        """The same of magnitudes with the instrument's terms, whose places in the field (n, 2) are known already."""
        at = np.where(node >= 0, node, 0)
        known = node >= 0
        value = mag + np.where(known, self.zeropoint[at], np.nan)
        if xy is not None and self.field is not None:
            x, y = xy[:, 0].astype(float), xy[:, 1].astype(float)
            centre = self.field.centre
            for k, basis in enumerate((x, y, x * x, x * y, y * y)):
                value += (basis - centre[k + 1]) * self.surface[at, k]
        value += self.by_magnitude(value, at)
        value -= response * self.seeing[at]
        err = mag_err.astype(float)
        variance = (self.error_scale[at] * err) ** 2 + self.variance[at] + self.zeropoint_err[at] ** 2
        return value, np.sqrt(np.where(known & np.isfinite(value), variance, np.nan))

    def _places(self, frame: pl.DataFrame, at: NDArray[np.integer]) -> Places:
        field = self.field
        assert field is not None
        if field.kind != "sky":
            which = None
            if field.n_detectors > 1:
                names = frame["detector"].cast(pl.String)
                lookup = pl.DataFrame(
                    {"detector": self.detectors, "_i": np.arange(len(self.detectors), dtype=np.int32)}
                )
                found = names.to_frame("detector").join(lookup, on="detector", how="left", maintain_order="left")
                which = found["_i"].fill_null(0).to_numpy()
            return field.on_detector(frame["x"].to_numpy(), frame["y"].to_numpy(), which)
        assert self.centre_ra is not None
        assert self.centre_dec is not None
        return field.on_sky(frame["ra"].to_numpy(), frame["dec"].to_numpy(), self.centre_ra[at], self.centre_dec[at])
