"""What a simulated survey is: its layout, its size, and how strong each trouble is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Layout = Literal["mosaic", "deep", "strip", "islands", "sparse"]
LAYOUTS: tuple[Layout, ...] = ("mosaic", "deep", "strip", "islands", "sparse")
OPTIONAL_COLUMNS = frozenset(
    {"detector", "x", "y", "ra", "dec", "color", "mjd", "night", "airmass", "seeing", "sky", "exptime", "exposures"}
)


class SpecError(ValueError):
    """A survey was asked for that cannot be made; the message names the field, its value and what is possible."""


@dataclass(frozen=True)
class Passband:
    """A filter: first- and second-order extinction, zero-point, dark sky, and how magnitudes follow colour.

    Extinction (mag per airmass) and sky brightness (mag/arcsec2) are those of a good site at sea of 2 km;
    ``zeropoint`` is the magnitude giving one electron per second outside the clouds at airmass 1.
    """

    extinction: float
    second_order: float
    zeropoint: float
    sky: float
    color_slope: float


PASSBANDS = {
    "u": Passband(0.45, -0.030, 23.6, 22.8, 1.30),
    "g": Passband(0.17, -0.015, 25.1, 22.1, 0.55),
    "r": Passband(0.10, -0.003, 25.0, 21.1, 0.00),
    "i": Passband(0.06, -0.001, 24.7, 20.3, -0.25),
    "z": Passband(0.05, 0.002, 24.2, 19.4, -0.40),
    "y": Passband(0.07, 0.004, 23.2, 18.4, -0.45),
}


def passband(name: str) -> Passband:
    """Return the filter of that name; an unknown one is like r."""
    return PASSBANDS.get(name, PASSBANDS["r"])


@dataclass(frozen=True)
class SurveySpec:
    """A survey and the strengths of its troubles; checked when made.

    Sizes and layout
    ----------------
    layout
        ``mosaic`` tiles the sky with dithered passes; ``deep`` dithers about one centre; ``strip`` is one field high;
        ``islands`` are groups of fields, some joined by a thin bridge, the others by nothing; ``sparse`` is a mosaic
        of few visits.
    n_exposures, stars_per_exposure, n_stars
        Number of exposures over all bands; mean number of stars inside the field brighter than ``mag_faint``;
        or instead the number of stars over the whole footprint.
    bands, ccds, nights, visits
        Filters, columns and rows of detectors, observing nights, and visits of each pointing over all bands.
    fov_deg, overlap, dither, rotator
        Side of the square field; overlap of neighbours and rms dither of a pass in units of that side; ``fixed`` as on
        a fork mount, where a plane flat-field error cannot be told from a gradient over the sky; ``flip``, turned by
        180 degrees past the meridian as on a German mount; ``random`` as behind a rotator.
    n_islands, n_bridges
        Groups of fields, and how many of them hang on to the next by one chain of single exposures.

    Troubles (mag unless said)
    --------------------------
    cloudy_nights, cloud, cloud_structure, cloud_minutes
        Fraction of nights with clouds; their typical extinction; rms structure in the field relative to the
        extinction; correlation time.
    extinction_scatter, zero_drift, zero_jitter
        Relative scatter of the night's extinction coefficient; rms step of the zero level from night to night; rms
        jitter of an exposure.
    seeing, seeing_scatter, aperture_loss, moon
        Median FWHM (arcsec); rms of its logarithm; mag lost per unit of ln seeing; strength of moonlight (0 to 1).
    error_scale, error_scale_scatter, floor, excess_noise, bad_exposures, bad_noise
        Range from which the survey's true/reported error is drawn; rms ln of it per exposure; noise floor that no
        reported error holds; median excess noise of an exposure; fraction of bad exposures; their excess noise.
    blend_fraction, edge, flat, flat_night, ccd_offset, color_term
        Fraction of stars with a neighbour; loss at the field's edge; rms of the static flat-field error, of its change
        from night to night, of the detectors' offsets; rms colour term of detectors (mag per mag).
    second_order
        Scale of the colour-dependent extinction of the filter (1 is that of nature).
    variable_fraction, outlier_fraction, trail_fraction, bad_columns, misidentified
        Fractions of variable stars, of glitches per measurement, of exposures crossed by a satellite, bad columns per
        detector, fraction of measurements given to a wrong star.
    poor_exposures
        Fraction of exposures that keep only 4 to 15 stars.
    mag_bright, mag_faint, saturation, flag_saturated, nonlinearity, detection_snr
        Range of star magnitudes; magnitude that saturates in median conditions; whether saturated stars stay with
        flag 1 instead of being dropped; non-linearity at saturation; signal-to-noise of 50 % detection.
    density_contrast
        Rms of the logarithm of the star density over the sky.
    drop
        Columns withheld from the measurements and the exposures; ``exposures`` withholds all but exposure_id.
    """

    layout: Layout = "mosaic"
    n_exposures: int = 240
    stars_per_exposure: float = 200.0
    n_stars: int | None = None
    bands: tuple[str, ...] = ("r",)
    ccds: tuple[int, int] = (1, 1)
    nights: int = 20
    visits: int = 5
    fov_deg: float = 1.0
    overlap: float = 0.15
    dither: float = 0.2
    rotator: Literal["fixed", "flip", "random"] = "fixed"
    n_islands: int = 6
    n_bridges: int = 2

    cloudy_nights: float = 0.3
    cloud: float = 0.15
    cloud_structure: float = 0.06
    cloud_minutes: float = 40.0
    extinction_scatter: float = 0.15
    zero_drift: float = 0.01
    zero_jitter: float = 0.0015
    seeing: float = 1.1
    seeing_scatter: float = 0.22
    aperture_loss: float = 0.02
    moon: float = 1.0
    error_scale: tuple[float, float] = (1.1, 1.5)
    error_scale_scatter: float = 0.1
    floor: float = 0.004
    excess_noise: float = 0.003
    bad_exposures: float = 0.05
    bad_noise: float = 0.025
    blend_fraction: float = 0.15
    edge: float = 0.006
    flat: float = 0.004
    flat_night: float = 0.0015
    ccd_offset: float = 0.004
    color_term: float = 0.008
    second_order: float = 1.0
    variable_fraction: float = 0.04
    outlier_fraction: float = 0.008
    trail_fraction: float = 0.08
    bad_columns: int = 2
    misidentified: float = 0.0007
    poor_exposures: float = 0.02
    mag_bright: float = 14.5
    mag_faint: float = 21.2
    saturation: float = 15.0
    flag_saturated: bool = False
    nonlinearity: float = 0.02
    detection_snr: float = 7.0
    density_contrast: float = 0.3
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise SpecError(f"layout is {self.layout!r}; it is one of {', '.join(LAYOUTS)}")
        _check_counts(self)
        _check_strengths(self)
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise SpecError(f"bands are {self.bands}; name each filter once, and at least one")
        if self.rotator not in ("fixed", "flip", "random"):
            raise SpecError(f"rotator is {self.rotator!r}; it is fixed, flip or random")
        lo, hi = self.error_scale
        if not 0 < lo <= hi < 100:
            raise SpecError(f"error_scale is {self.error_scale}; give (low, high), 0 < low <= high < 100")
        if not self.mag_bright < self.mag_faint:
            raise SpecError(f"mag_bright {self.mag_bright} is not brighter than mag_faint {self.mag_faint}")
        unknown = sorted(set(self.drop) - OPTIONAL_COLUMNS)
        if unknown:
            raise SpecError(
                f"drop names {', '.join(unknown)}; what may be withheld: {', '.join(sorted(OPTIONAL_COLUMNS))}"
            )

    @property
    def n_detectors(self) -> int:
        """Number of detectors in the focal plane."""
        return self.ccds[0] * self.ccds[1]


_FRACTIONS = (
    "overlap", "cloudy_nights", "moon", "bad_exposures", "blend_fraction", "variable_fraction", "outlier_fraction",
    "trail_fraction", "misidentified", "poor_exposures",
)  # fmt: skip
_STRENGTHS = (
    "dither", "cloud", "cloud_structure", "extinction_scatter", "zero_drift", "zero_jitter", "seeing_scatter",
    "aperture_loss", "error_scale_scatter", "floor", "excess_noise", "bad_noise", "edge", "flat", "flat_night",
    "ccd_offset", "color_term", "second_order", "nonlinearity", "density_contrast",
)  # fmt: skip
_POSITIVE = ("stars_per_exposure", "seeing", "cloud_minutes", "detection_snr")


def _check_counts(spec: SurveySpec) -> None:
    least = {"n_exposures": 2, "nights": 1, "visits": 1, "n_islands": 1, "n_bridges": 0, "bad_columns": 0}
    for name, low in least.items():
        value = getattr(spec, name)
        if not isinstance(value, int) or value < low:
            raise SpecError(f"{name} is {value!r}; give a whole number of at least {low}")
    if spec.n_stars is not None and spec.n_stars < 1:
        raise SpecError(f"n_stars is {spec.n_stars}; give at least 1, or None to use stars_per_exposure")
    if spec.nights > spec.n_exposures:
        raise SpecError(
            f"nights {spec.nights} exceed n_exposures {spec.n_exposures}; a night has at least one exposure"
        )
    if spec.n_bridges >= spec.n_islands:
        raise SpecError(f"n_bridges {spec.n_bridges} joins all of n_islands {spec.n_islands}; give fewer bridges")
    if len(spec.ccds) != 2 or min(spec.ccds) < 1 or max(spec.ccds) > 32:
        raise SpecError(f"ccds is {spec.ccds}; give (columns, rows), each 1 to 32")
    if spec.layout != "deep" and spec.visits < len(spec.bands):
        raise SpecError(f"visits {spec.visits} are fewer than the {len(spec.bands)} bands; give at least one a band")
    if spec.n_exposures < len(spec.bands):
        raise SpecError(f"n_exposures {spec.n_exposures} are fewer than the {len(spec.bands)} bands")


def _check_strengths(spec: SurveySpec) -> None:
    for name in _FRACTIONS + _STRENGTHS + _POSITIVE + ("fov_deg", "mag_bright", "mag_faint", "saturation"):
        value = getattr(spec, name)
        if not math.isfinite(value):
            raise SpecError(f"{name} is {value}; give a finite number")
        if name in _FRACTIONS and not 0 <= value <= 1:
            raise SpecError(f"{name} is {value}; it is a fraction, 0 to 1")
        if name in _STRENGTHS and value < 0:
            raise SpecError(f"{name} is {value}; a strength is not negative")
        if name in _POSITIVE and value <= 0:
            raise SpecError(f"{name} is {value}; it is positive")
    if not 0.05 <= spec.fov_deg <= 5:
        raise SpecError(f"fov_deg is {spec.fov_deg}; fields of 0.05 to 5 degrees can be made")
    if spec.overlap > 0.8:
        raise SpecError(f"overlap is {spec.overlap}; at most 0.8")
