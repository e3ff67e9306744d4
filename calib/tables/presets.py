"""Ready-made column maps of public tables, one row per detection: the surveys' own names, and what they leave unsaid.

Only names that stand here are used. Of several for one column the first that a table has is taken; a column without
name here is looked for under its canonical name, as without preset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from calib.config import SURVEYS
from calib.tables.errors import InputError, listing

if TYPE_CHECKING:
    from calib.tables.sources import Source

_BRIGHTNESS = ({"mag", "mag_err"}, {"flux", "flux_err"})
_EITHER = set.union(*_BRIGHTNESS)


@dataclass(frozen=True)
class Preset:
    """Names, units and time scales of a survey's table.

    Attributes
    ----------
    name : str
    table : str
        What table it is of, for the documentation.
    columns : dict of str to tuple of str
        Canonical to own names; none where a column of the canonical name is something else there.
    units : dict of str to str
        Of own names, where the file states none; an error without unit has that of its flux.
    time_scales : dict of str to str
        The same of times, as astropy calls them.
    notes : str
        What it cannot do, for the documentation.
    """

    name: str
    table: str
    columns: dict[str, tuple[str, ...]]
    units: dict[str, str] = field(default_factory=dict)
    time_scales: dict[str, str] = field(default_factory=dict)
    notes: str = ""

    def mapping(self, source: Source, explicit: Mapping[str, str]) -> dict[str, str]:
        """Canonical to own names for one table, with what the caller maps coming first; its units are completed.

        Magnitudes come before fluxes, and what the caller maps of one of them leaves the other out.

        Parameters
        ----------
        source : Source
        explicit : mapping of str to str
            Checked by `columns.check_mapping`.
        """
        have = set(source.names)
        mapping: dict[str, str] = {}
        for name, theirs in self.columns.items():
            own = next((n for n in theirs if n in have), None)
            if own is not None or not theirs:
                mapping[name] = own or ""
        asked = [pair for pair in _BRIGHTNESS if any(explicit.get(name) for name in pair)]
        whole = [pair for pair in _BRIGHTNESS if pair <= mapping.keys()]
        if taken := (asked or whole)[:1]:
            mapping = {name: own for name, own in mapping.items() if name in taken[0] or name not in _EITHER}
        mapping = {**mapping, **explicit}
        used = {own for name, own in mapping.items() if name not in explicit}
        for said, ours in ((source.units, self.units), (source.time_scales, self.time_scales)):
            for own in used & ours.keys():
                said.setdefault(own, ours[own])
        return mapping

    def check(self, source: Source, mapping: Mapping[str, str], explicit: Mapping[str, str]) -> None:
        """Refuse measurements that lack a needed column; what the caller maps is no matter of the preset.

        Parameters
        ----------
        source : Source
        mapping : mapping of str to str
            From `mapping`.
        explicit : mapping of str to str

        Raises
        ------
        InputError
            Neither the preset's names nor the canonical one is there for it.
        """

        def has(*names: str) -> bool:
            return all(explicit.get(name) or mapping.get(name, name) in source.names for name in names)

        brightness = "mag and mag_err" if "mag" in self.columns else "flux and flux_err"
        for there, what, names in (
            (has("star_id") or has("ra", "dec"), "star_id, or ra and dec", ("star_id", "ra", "dec")),
            (has("exposure_id"), "exposure_id", ("exposure_id",)),
            (has("mag", "mag_err") or has("flux", "flux_err"), brightness, ("mag", "mag_err", "flux", "flux_err")),
        ):
            if there:
                continue
            theirs = [own for name in names for own in self.columns.get(name, ())]
            raise InputError(
                f"{source.label}: no column for {what}, which preset {self.name} looks for under {listing(theirs)}; it "
                f"has {listing(source.names)}: map one with --columns {what.split()[0].strip(',')}=THEIR_NAME"
            )


_ALL = (
    Preset(
        "ztf",
        "light curves of the ZTF data releases, as the IRSA light-curve service gives them",
        {
            "star_id": ("oid",), "exposure_id": ("expid",), "mag": ("mag",), "mag_err": ("magerr",),
            "band": ("filtercode",), "detector": ("ccdid",), "ra": ("ra",), "dec": ("dec",), "flag": ("catflags",),
            "mjd": ("mjd",), "airmass": ("airmass",), "exptime": ("exptime",),
        },
        notes="`oid` is one star in one band, field and quadrant: fields are tied only with `--columns star_id=`, "
        "which tells stars by position. Rows with any bit of `catflags` are kept out.",
    ),
    Preset(
        "lsst",
        "Rubin `Source` and `ForcedSource` (DP1), with `Visit` or a table of it as `--exposures`",
        {
            "star_id": ("objectId",), "exposure_id": ("visit",), "flux": ("psfFlux",), "flux_err": ("psfFluxErr",),
            "band": ("band",), "detector": ("detector",), "x": ("x",), "y": ("y",), "ra": ("ra", "coord_ra"),
            "dec": ("dec", "coord_dec"), "flag": ("psfFlux_flag",), "mjd": ("midpointMjdTai", "expMidptMJD"),
            "airmass": ("airmass",), "seeing": ("seeing",), "exptime": ("expTime",), "sky": (),
        },
        {"psfFlux": "nJy", "coord_ra": "deg", "coord_dec": "deg"},
        {"midpointMjdTai": "tai", "expMidptMJD": "tai"},
        "`Source` has no `objectId`: its stars are told by position. Only `psfFlux_flag` is a flag; select on "
        "`pixelFlags_*` and `extendedness` before.",
    ),
    Preset(
        "des",
        "single-epoch (FINALCUT) objects of the Dark Energy Survey",
        {
            "star_id": ("COADD_OBJECT_ID",), "exposure_id": ("EXPNUM",), "mag": ("MAG_PSF",),
            "mag_err": ("MAGERR_PSF",), "flux": ("FLUX_PSF",), "flux_err": ("FLUXERR_PSF",),
            "band": ("BAND",), "detector": ("CCDNUM",), "x": ("XWIN_IMAGE",),
            "y": ("YWIN_IMAGE",), "ra": ("ALPHAWIN_J2000", "RA"),
            "dec": ("DELTAWIN_J2000", "DEC"), "flag": ("FLAGS",), "mjd": ("MJD_OBS",), "airmass": ("AIRMASS",),
            "exptime": ("EXPTIME",),
        },
        {"FLUX_PSF": "adu"},
        notes="Stars are told by position unless `COADD_OBJECT_ID` was joined. Rows with any bit of `FLAGS` are kept "
        "out, and so blends are; `--columns flag=` keeps them in. Band, exposure and CCD are in the database's rows, "
        "not in those of a catalogue file.",
    ),
    Preset(
        "ps1",
        "Pan-STARRS1 DR2 `Detection`",
        {
            "star_id": ("objID",), "exposure_id": ("imageID",), "flux": ("psfFlux",), "flux_err": ("psfFluxErr",),
            "band": ("filterID",), "x": ("xPos",), "y": ("yPos",), "ra": ("ra",), "dec": ("dec",), "mjd": ("obsTime",),
            "airmass": ("airMass",), "exptime": ("expTime",), "sky": (),
        },
        {"psfFlux": "Jy"},
        {"obsTime": "tai"},
        "`filterID` is kept: bands are called 1 to 5 for g, r, i, z and y, in reference tables too. `imageID` is one "
        "chip of one exposure, and has a zero-point of its own. `infoFlag` has bits of good rows and is no flag: "
        "select on it, and on `psfQfPerfect`, before.",
    ),
    Preset(
        "gaia",
        "Gaia epoch photometry (DataLink, INDIVIDUAL or COMBINED), one row per transit and band",
        {
            "star_id": ("source_id",), "exposure_id": ("transit_id",), "flux": ("flux",), "flux_err": ("flux_error",),
            "band": ("band",), "flag": ("rejected_by_photometry",),
        },
        {"flux": "electron / s"},
        notes="`transit_id` is one source's crossing of the field: it ties no two sources, and exposures have to be "
        "made of it (transits of a stretch of time) and mapped. `time` is BJD - 2455197.5: add 55197 to have an `mjd`. "
        "Magnitudes are of the flux, in e-/s.",
    ),
)  # fmt: skip

PRESETS: dict[str, Preset] = {name: preset for name in SURVEYS for preset in _ALL if preset.name == name}
"""Every preset by name."""


def mapping_of(preset: str, sources: Sequence[Source], explicit: Mapping[str, str]) -> dict[str, str]:
    """Canonical to own names for tables of the same columns: what is explicit, and under it what a preset has.

    Parameters
    ----------
    preset : str
        Of `PRESETS`; empty for none.
    sources : sequence of Source
        One table in several parts; their units are completed.
    explicit : mapping of str to str

    Raises
    ------
    InputError
        There is no such preset.
    """
    if not preset:
        return dict(explicit)
    if preset not in PRESETS:
        raise InputError(f"preset is {preset!r}; it is one of {', '.join(PRESETS)}")
    return [PRESETS[preset].mapping(source, explicit) for source in sources][0]


def presets_markdown() -> str:
    """Return the presets as Markdown, for the documentation."""
    out = []
    for preset in PRESETS.values():
        out += [f"`{preset.name}`: {preset.table}.", ""]
        pairs = [f"{name}={' or '.join(own)}" for name, own in preset.columns.items() if own and own != (name,)]
        same = [name for name, own in preset.columns.items() if own == (name,)]
        out += ["    " + ", ".join(pairs + same), ""]
        said = [f"{unit} for {own}" for own, unit in preset.units.items()]
        said += [f"{scale.upper()} for {own}" for own, scale in preset.time_scales.items()]
        if said:
            out += [f"Where the file says nothing: {', '.join(said)}.", ""]
        out += [preset.notes, ""]
    return "\n".join(out)
