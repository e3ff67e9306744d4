"""Ten surveys of the other world: a telescope, a layout, a sky, a weather, and a pipeline that reports errors."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Telescope:
    """A telescope, its camera and its site.

    diameter [m], pixel [arcsec], nx, ny [pixel, of one CCD], columns x rows of CCDs with ``gap`` [pixel] between them,
    ``amplifiers`` side by side along x on each, read_noise and full_well [electron], instrument_fwhm [arcsec, in
    quadrature with the seeing], aperture [arcsec radius; None for PSF fitting], beta of the Moffat profile.
    """

    diameter: float
    pixel: float
    nx: int
    ny: int
    columns: int = 1
    rows: int = 1
    gap: int = 60
    amplifiers: int = 2
    read_noise: float = 6.0
    full_well: float = 9.0e4
    instrument_fwhm: float = 0.6
    aperture: float | None = None
    beta: float = 3.0
    latitude: float = 32.0
    longitude: float = -110.0
    altitude: float = 2100.0

    @property
    def half_width(self) -> tuple[float, float]:
        """Half the field's extent along u and v, deg."""
        n = (self.columns * (self.nx + self.gap) - self.gap, self.rows * (self.ny + self.gap) - self.gap)
        return 0.5 * n[0] * self.pixel / 3600, 0.5 * n[1] * self.pixel / 3600


@dataclass(frozen=True)
class Preset:
    """What one survey is like; magnitudes in mag, probabilities per night, exposure or measurement.

    Weather: ``nights`` maps a kind of night (clear, cirrus, bands, onset, broken) to its probability; thickness [mag]
    scales every cloud. Sky: slope of log10 counts, crowding (neighbours within two seeing discs, brighter than the star
    plus 3), variable fraction. Pipeline: resampling is pixfrac / scale of the stacked grid (0 where images are not
    resampled), reported_floor [mag] is added to reported errors, fit_scatter their lognormal scatter; unreported is
    relative noise that they leave out (fine flat field, the fit's model). Camera:
    illumination [mag at the field's edge], steps [mag, between amplifiers], detector_offset [mag, between CCDs],
    nonlinearity [mag at full well]. Accidents: bad_exposures, ghosts and trails per exposure, failures per measurement
    (``failure_scale`` mag, ``fainter`` the share of failures that make the star fainter), swaps (share of exposures
    with mistaken matches). ``cut`` is the reported signal to noise of the faintest measurement in the table.
    """

    telescope: Telescope
    layout: str
    measurements: int
    exposures: int
    bands: tuple[str, ...] = ("r",)
    n_nights: int = 6
    exptime: float = 60.0
    nights: dict[str, float] = field(default_factory=lambda: {"clear": 0.6, "cirrus": 0.2, "onset": 0.2})
    thickness: float = 0.1
    aerosol: float = 0.05
    seeing: float = 1.3
    seeing_scatter: float = 0.2
    slope: float = 0.25
    density_contrast: float = 0.4
    crowding: float = 0.1
    variables: float = 0.05
    resampling: float = 0.0
    reported_floor: float = 0.0
    unreported: float = 0.004
    fit_scatter: float = 0.05
    illumination: float = 0.01
    steps: float = 0.002
    detector_offset: float = 0.0
    nonlinearity: float = 0.004
    bad_exposures: float = 0.03
    ghosts: float = 0.1
    trails: float = 0.05
    failures: float = 0.004
    failure_scale: float = 0.15
    fainter: float = 0.6
    swaps: float = 0.02
    cut: float = 12.0
    counts_not_rates: bool = False
    rounded: bool = False
    bad_night: bool = False
    without: tuple[str, ...] = ("color",)
    exposures_without: tuple[str, ...] = ()


_METRE = Telescope(1.0, 0.6, 4096, 4096, amplifiers=4)
_DRIFT = Telescope(1.2, 0.5, 2048, 4096, instrument_fwhm=0.5, latitude=-30.2, longitude=-70.8, altitude=2700.0)
_LENS = Telescope(
    0.1, 18.0, 4096, 4096, amplifiers=1, instrument_fwhm=40.0, aperture=54.0, beta=2.5, read_noise=9.0, altitude=1200.0
)
_STARE = Telescope(0.6, 0.8, 2048, 2048, instrument_fwhm=5.0, aperture=9.0, beta=4.5, latitude=28.3, longitude=-16.5)
_SMALL = Telescope(
    0.35, 1.0, 1536, 1024, amplifiers=1, instrument_fwhm=1.8, aperture=5.0, read_noise=12.0, full_well=5.0e4,
    latitude=47.0, longitude=8.0, altitude=500.0,
)  # fmt: skip
_MOSAIC = Telescope(
    2.5, 0.4, 2048, 4096, columns=4, rows=2, full_well=1.4e5, latitude=-31.0, longitude=149.0, altitude=1160.0
)
_SURVEY = Telescope(
    1.8, 0.7, 3072, 3072, instrument_fwhm=0.7, beta=2.7, latitude=20.7, longitude=-156.0, altitude=3000.0
)

PRESETS: dict[str, Preset] = {
    # forty fields around a loop of nine degrees, each touching the next, over three months: the loop must close
    "ring": Preset(
        _METRE, "ring", 90_000, 240, n_nights=16, nights={"clear": 0.5, "cirrus": 0.25, "onset": 0.25}, thickness=0.06
    ),
    # a lens of 20 degrees, all the sky, three visits: airmass varies across each field
    "allsky": Preset(
        _LENS, "allsky", 120_000, 300, n_nights=8, exptime=120.0, thickness=0.04, seeing=2.5, crowding=0.35,
        unreported=0.008, illumination=0.03, aerosol=0.09, nights={"clear": 0.75, "cirrus": 0.25},
        exposures_without=("seeing", "sky"), without=("color", "x", "y"),
    ),  # fmt: skip
    # one field for one night, out of focus, guiding to a few pixels: scintillation and airmass
    "stare": Preset(
        _STARE, "stare", 60_000, 320, n_nights=1, exptime=40.0, nights={"cirrus": 0.6, "clear": 0.4}, thickness=0.03,
        unreported=0.0015, crowding=0.2, variables=0.12, illumination=0.02, bad_exposures=0.02, cut=40.0,
        without=("color", "ra", "dec"),
    ),  # fmt: skip
    # two bands, random dithers and a turning field, resampled images
    "dither2": Preset(
        _SURVEY, "dither", 150_000, 300, bands=("g", "i"), n_nights=10, exptime=45.0, resampling=1.0, fit_scatter=0.1,
        thickness=0.15, nights={"clear": 0.5, "cirrus": 0.2, "broken": 0.15, "onset": 0.15}, without=(),
    ),  # fmt: skip
    # a small telescope near sea level: some sixty stars an exposure, noise, counts and not rates, clouds most nights
    "smallscope": Preset(
        _SMALL, "patch", 22_000, 360, bands=("V",), n_nights=12, exptime=60.0, thickness=0.25, aerosol=0.12, seeing=2.8,
        seeing_scatter=0.3, nights={"clear": 0.3, "cirrus": 0.4, "onset": 0.2, "broken": 0.1}, slope=0.18,
        unreported=0.006, crowding=0.15, steps=0.0, illumination=0.025, bad_exposures=0.06, failures=0.015, cut=10.0,
        counts_not_rates=True, without=("color", "ra", "dec"), exposures_without=("ra", "dec", "sky"),
    ),  # fmt: skip
    # five islands and a few pointings between them
    "islands": Preset(
        _METRE, "islands", 70_000, 180, n_nights=7, density_contrast=0.9, thickness=0.08, resampling=0.9,
        reported_floor=0.002, cut=10.0,
    ),
    # seven nights of which one is bad in every way and in no column of the table
    "badnight": Preset(
        _SURVEY, "grid", 80_000, 210, n_nights=7, nights={"clear": 0.85, "cirrus": 0.15}, bad_night=True,
        failures=0.008, exposures_without=("night", "seeing"),
    ),  # fmt: skip
    # nothing but star, exposure, magnitude, error, the last two in whole millimagnitudes
    "bare": Preset(
        _METRE, "grid", 60_000, 200, n_nights=5, rounded=True, resampling=1.4, failures=0.012, fainter=0.8,
        unreported=0.01, failure_scale=0.3, crowding=0.25, cut=8.0, without=("color", "band", "x", "y", "ra", "dec"),
        exposures_without=("mjd", "night", "airmass", "seeing", "sky", "exptime", "ra", "dec"),
    ),  # fmt: skip
    # eight CCDs, each with its own response, gain and colour
    "mosaic": Preset(
        _MOSAIC, "dither", 180_000, 110, n_nights=5, exptime=30.0, seeing=1.0, crowding=0.3, illumination=0.015,
        detector_offset=0.012, nonlinearity=0.012, unreported=0.0025, resampling=0.8, ghosts=0.3, cut=20.0,
        nights={"clear": 0.7, "bands": 0.3}, without=(),
    ),  # fmt: skip
    # drift stripes: long thin runs of frames, one stripe a night, some under bands of cirrus
    "stripes": Preset(
        _DRIFT, "stripes", 110_000, 390, n_nights=6, exptime=54.0, thickness=0.12, density_contrast=0.7,
        nights={"clear": 0.4, "bands": 0.3, "onset": 0.3}, trails=0.1, bad_exposures=0.01,
        without=("color", "ra", "dec"), exposures_without=("airmass",),
    ),  # fmt: skip
}  # fmt: skip
