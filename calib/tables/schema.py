"""Every output column: type, unit, description and UCD, in one registry from which files and documentation are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calib.tables.columns import CONDITION_COLUMNS, MEASUREMENT_COLUMNS
from calib.tables.presets import presets_markdown
from calib.tables.reasons import reasons_markdown

Kind = Literal["zeropoints", "stars", "measurements", "terms"]

ColumnType = Literal["id", "int64", "bool", "string", "float64", "float32"]
"""``id`` is int64 or string, as the input has it. Only floats may be missing, and `MAY_BE_MISSING`."""


@dataclass(frozen=True)
class OutputColumn:
    """An output column.

    Attributes
    ----------
    name : str
    type : str
        One of `ColumnType`.
    unit : str
        In astropy's spelling; empty where there is none.
    description : str
    ucd : str
        Unified content descriptor of the Virtual Observatory.
    needed : bool
        Whether every table of its kind has it.
    """

    name: str
    type: ColumnType
    unit: str
    description: str
    ucd: str = ""
    needed: bool = False


_MAG, _ERR = "phot.mag", "stat.error;phot.mag"

_KEYS = (
    OutputColumn("exposure_id", "id", "", "Exposure, as in the input.", "meta.id;obs.exposure", True),
    OutputColumn("band", "string", "", "Band; empty where the input has none.", "meta.id;instr.bandpass", True),
    OutputColumn("detector", "id", "", "Detector, where each has its own zero-point.", "meta.id;instr.det"),
    OutputColumn("component", "int64", "", "Connected component of the exposure graph; unique over bands.", "", True),
)

_ZEROPOINTS = (
    *_KEYS,
    OutputColumn("anchored", "bool", "", "Whether reference stars set the scale of the component.", "meta.code", True),
    OutputColumn("n_stars", "int64", "", "Stars used in the exposure.", "meta.number", True),
    OutputColumn("n_measurements", "int64", "", "Measurements used in the exposure.", "meta.number;obs", True),
    OutputColumn(
        "zeropoint", "float64", "mag", "Calibrated magnitude = mag + zeropoint + terms.", "phot.mag;arith.zp", True
    ),
    OutputColumn(
        "zeropoint_err",
        "float64",
        "mag",
        "Standard error of zeropoint in its gauge.",
        "stat.error;phot.mag;arith.zp",
        True,
    ),
    OutputColumn("mjd", "float64", "d", "Modified Julian Date, in the scale of the input: time_scale.", "time.epoch"),
    OutputColumn("airmass", "float64", "", "Airmass.", "obs.airMass"),
    OutputColumn("seeing", "float64", "arcsec", "Full width at half maximum of a star's image.", "instr.obsty.seeing"),
    OutputColumn("sky", "float64", "mag / arcsec2", "Sky brightness.", "phot.mag.sb;instr.skyLevel"),
    OutputColumn("exptime", "float64", "s", "Exposure time.", "time.duration;obs.exposure"),
    OutputColumn("ra", "float64", "deg", "Right ascension of the exposure's centre.", "pos.eq.ra"),
    OutputColumn("dec", "float64", "deg", "Declination of the exposure's centre.", "pos.eq.dec"),
    OutputColumn("cloud_extinction", "float64", "mag", "Light lost to cloud.", "phys.absorption"),
    OutputColumn(
        "cloud_extinction_err", "float64", "mag", "Standard error of cloud_extinction.", "stat.error;phys.absorption"
    ),
    OutputColumn(
        "photometric_probability", "float64", "", "Probability that the exposure was photometric.", "stat.probability"
    ),
    OutputColumn(
        "extinction_coefficient",
        "float64",
        "mag",
        "Extinction per unit airmass on the night of the exposure.",
        "phys.absorption",
    ),
    OutputColumn(
        "excess_noise", "float64", "mag", "Noise of the exposure beyond reported errors and floor.", "stat.stdev", True
    ),
    OutputColumn("error_scale", "float64", "", "Number by which reported errors are multiplied.", "arith.factor", True),
    OutputColumn(
        "latent_seeing", "float64", "",
        "Seeing that the residuals show where none is given: standardised square, 0 where they show none.",
        "instr.obsty.seeing;stat.fit.param",
    ),  # fmt: skip
    OutputColumn(
        "background", "float64", "nJy",
        "Flux that the background left in every star's aperture, on the calibrated scale.", "phot.flux;stat.fit.param",
    ),
    OutputColumn(
        "magnitude_slope", "float64", "", "Magnitudes a magnitude that are added to a star fainter than slope_pivot.",
        "stat.fit.param",
    ),
    OutputColumn(
        "slope_pivot", "float64", "mag", "Calibrated magnitude at which magnitude_slope adds nothing.", _MAG
    ),
    OutputColumn(
        "nonlinearity", "float64", "mag / mJy",
        "Magnitudes added to a star of 1 mJy on the calibrated scale; to others in the ratio of the fluxes.",
        "stat.fit.param",
    ),
    OutputColumn("surface_x", "float64", "mag", "Surface coefficient of x, over the half field.", "stat.fit.param"),
    OutputColumn("surface_y", "float64", "mag", "Surface coefficient of y, over the half field.", "stat.fit.param"),
    OutputColumn(
        "surface_xx", "float64", "mag", "Surface coefficient of x^2 - c, over the half field.", "stat.fit.param"
    ),
    OutputColumn("surface_xy", "float64", "mag", "Surface coefficient of x y, over the half field.", "stat.fit.param"),
    OutputColumn(
        "surface_yy", "float64", "mag", "Surface coefficient of y^2 - c, over the half field.", "stat.fit.param"
    ),
    OutputColumn(
        "limiting_mag", "float64", "mag", "Calibrated magnitude at which the error is 0.2 mag.", "phot.mag;stat.max"
    ),
    OutputColumn(
        "quality", "float64", "", "From 0 to 1; ranks exposures by their expected error.", "meta.code.qual", True
    ),
    OutputColumn("flag", "string", "", "Names of flags joined by commas; empty where all is well.", "meta.code", True),
    OutputColumn(
        "stability", "float64", "mag", "Largest change of zeropoint if one of its measurements is left out.",
        "stat.max;arith.diff",
    ),
)

_STARS = (
    OutputColumn(
        "star_id", "id", "", "Star, as in the input; told by position, a number from south to north.",
        "meta.id;meta.main", True,
    ),
    OutputColumn("band", "string", "", "Band; empty where the input has none.", "meta.id;instr.bandpass", True),
    OutputColumn("component", "int64", "", "Connected component of the exposure graph; unique over bands.", "", True),
    OutputColumn("mag", "float64", "mag", "Calibrated magnitude.", _MAG, True),
    OutputColumn("mag_err", "float64", "mag", "Standard error of mag, that of the zero-points included.", _ERR, True),
    OutputColumn("n_measurements", "int64", "", "Measurements of the star.", "meta.number;obs", True),
    OutputColumn("n_used", "int64", "", "Measurements used in the solve.", "meta.number;obs", True),
    OutputColumn(
        "chi2_dof", "float64", "", "Chi-square per degree of freedom of the star's residuals.", "stat.fit.chi2", True
    ),
    OutputColumn(
        "variability_probability", "float64", "",
        "Probability that the star varies by as much as its measurements could show.", "stat.probability", True,
    ),
    OutputColumn(
        "seeing_response", "float64", "mag", "Change of magnitude per unit of standardised seeing.", "stat.fit.param"
    ),
    OutputColumn("ra", "float64", "deg", "Right ascension.", "pos.eq.ra"),
    OutputColumn("dec", "float64", "deg", "Declination.", "pos.eq.dec"),
)

_MEASUREMENTS = (
    OutputColumn(
        "star_id", "id", "",
        "Star, as in the input or told by position; missing from `calib apply` where no star of the solution is there.",
        "meta.id;meta.main", True,
    ),
    OutputColumn("exposure_id", "id", "", "Exposure, as in the input.", "meta.id;obs.exposure", True),
    OutputColumn("band", "string", "", "Band.", "meta.id;instr.bandpass"),
    OutputColumn("detector", "id", "", "Detector.", "meta.id;instr.det"),
    OutputColumn("ra", "float64", "deg", "Right ascension of the row, where stars are told by position.", "pos.eq.ra"),
    OutputColumn("dec", "float64", "deg", "Declination of the row, where stars are told by position.", "pos.eq.dec"),
    OutputColumn(
        "calibrated_mag", "float64", "mag",
        "mag + zeropoint + terms at the measurement's place; NaN where one of them is missing.", _MAG, True,
    ),
    OutputColumn(
        "calibrated_mag_err", "float32", "mag",
        "Standard error of calibrated_mag; NaN where that, or the error of the measurement, is missing.", _ERR, True,
    ),
    OutputColumn("residual", "float32", "mag", "calibrated_mag minus the star's magnitude.", "stat.fit.residual"),
    OutputColumn("weight", "float32", "1 / mag2", "Weight in the solve; 0 where not used.", "stat.weight"),
    OutputColumn(
        "outlier_probability", "float32", "", "Probability that the measurement is an outlier.", "stat.probability"
    ),
    OutputColumn("used", "bool", "", "Whether it was used in the solve; not from `calib apply`.", "meta.code"),
    OutputColumn(
        "influence", "float32", "mag", "Change of the exposure's zeropoint if it is left out.", "arith.diff"
    ),
)

_TERMS = (
    OutputColumn(
        "name", "string", "",
        "extinction (mag per airmass), extinction_drift (mag per airmass and hour), seeing (per ln), "
        "detector_offset (mag), detector_color (per mag of colour), flat (mag, of a cell of the field).",
        "meta.id", True,
    ),  # fmt: skip
    OutputColumn("band", "string", "", "Band; empty where it is for all.", "meta.id;instr.bandpass", True),
    OutputColumn("detector", "string", "", "Detector; empty where it is for all.", "meta.id;instr.det", True),
    OutputColumn("night", "int64", "", "Night; missing where it is for all.", "time.period", True),
    OutputColumn("value", "float64", "mag", "Value, mag per unit of what it multiplies.", "stat.fit.param", True),
    OutputColumn("err", "float64", "mag", "Standard error of value.", "stat.error;stat.fit.param", True),
)

MAY_BE_MISSING = {("terms", "night"), ("measurements", "star_id")}
"""Columns that are no floats and may be missing: the night of a term of all, the star of a row of `calib apply`."""

COLUMNS: dict[Kind, dict[str, OutputColumn]] = {
    "zeropoints": {c.name: c for c in _ZEROPOINTS},
    "stars": {c.name: c for c in _STARS},
    "measurements": {c.name: c for c in _MEASUREMENTS},
    "terms": {c.name: c for c in _TERMS},
}
"""Columns of each kind of table, in the order in which they are written."""

TOLD = {"time_scale": "time.epoch", "magnitude_system": "phot.mag"}
"""What a table's metadata may say of a solution's scales, and the first word of the UCD of columns that are on it."""


def column_meta(column: OutputColumn, meta: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return what is told of a column beside its unit and description.

    Parameters
    ----------
    column : OutputColumn
    meta : mapping, optional
        The table's metadata: what it says of `TOLD`, times and magnitudes say too.
    """
    kind = column.ucd.split(";")[0]
    told = {name: str(meta[name]) for name, of in TOLD.items() if meta and name in meta and of == kind}
    return ({"ucd": column.ucd} if column.ucd else {}) | told


_TITLES = {
    "zeropoints": "zeropoints.ecsv, zeropoints.parquet: one row per exposure, band (and detector)",
    "stars": "stars.parquet: one row per star and band",
    "measurements": "measurements.parquet: one row per input row, in input order",
    "terms": "terms.ecsv: one row per fitted instrument term",
}


def columns_markdown() -> str:
    """Return docs/columns.md: input columns, output columns, and the reasons for which rows are not used."""
    out = ["# Columns", "", "Made by `python -m calib.tables.schema` from the registries in `calib/tables`.", ""]
    for title, inputs in (("Measurements in", MEASUREMENT_COLUMNS), ("Exposures in", CONDITION_COLUMNS)):
        out += [f"## {title}", "", "| column | unit | meaning |", "|---|---|---|"]
        out += [f"| {c.name} | {c.unit} | {c.description} |" for c in inputs.values()] + [""]
    out += ["## Why a row is not used", "", reasons_markdown(), ""]
    out += [
        "## Scales", "",
        "Where the input says them, the metadata of every table of a solution, and of its columns that hold a time or "
        "a magnitude, have `time_scale` (as astropy has it) and `magnitude_system` (AB or instrumental; that of the "
        "reference stars where there are any).", "",
    ]  # fmt: skip
    out += [
        "## Presets", "",
        "What `--preset` takes a survey's columns to be, where `--columns` does not say otherwise.", "",
        presets_markdown(),
    ]  # fmt: skip
    for kind, columns in COLUMNS.items():
        out += [
            f"## {_TITLES[kind]}",
            "",
            "| column | type | unit | always | meaning | UCD |",
            "|---|---|---|---|---|---|",
        ]
        out += [
            f"| {c.name} | {c.type} | {c.unit} | {'yes' if c.needed else ''} | {c.description} | {c.ucd} |"
            for c in columns.values()
        ] + [""]
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    print(columns_markdown(), end="")
