"""Tables with the surveys' own names."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import apply_frames
from calib.config import SURVEYS, ConfigError
from calib.tables import InputError, iter_measurements, read_measurements
from calib.tables.columns import CANONICAL
from calib.tables.presets import PRESETS, presets_markdown

from .conftest import survey

# every column that the surveys' documentation lists there and that something could be mistaken for
ZTF = "oid expid hjd mjd mag magerr catflags filtercode ra dec chi sharp filefracday field ccdid qid limitmag magzp " \
    "magzprms clrcoeff clrcounc exptime airmass programid"
SOURCE = "sourceId visit detector band physical_filter coord_ra coord_dec ra dec raErr decErr x y xErr yErr psfFlux " \
    "psfFluxErr psfFlux_flag ap12Flux ap12FluxErr sky skyErr extendedness pixelFlags_bad pixelFlags_saturated"
FORCED = "objectId parentObjectId coord_ra coord_dec visit detector band psfFlux psfFluxErr psfFlux_flag psfDiffFlux " \
    "psfDiffFluxErr pixelFlags_bad tract patch"
VISIT = "visit physical_filter band ra dec skyRotation zenithDistance airmass expTime expMidptMJD obsStartMJD"
DES = "FILENAME EXPNUM CCDNUM BAND OBJECT_NUMBER RA DEC ALPHAWIN_J2000 DELTAWIN_J2000 XWIN_IMAGE YWIN_IMAGE FLUX_PSF " \
    "FLUXERR_PSF FLUX_AUTO FLUXERR_AUTO SPREAD_MODEL FLAGS IMAFLAGS_ISO NITE"
PS1 = "objID uniquePspsP2id detectID filterID surveyID imageID obsTime xPos yPos ra dec raErr decErr zp telluricExt " \
    "expTime airMass psfFlux psfFluxErr psfMajorFWHM psfQfPerfect apFlux apFluxErr sky skyErr infoFlag"
GAIA = "source_id transit_id band time mag flux flux_error flux_over_error rejected_by_photometry " \
    "rejected_by_variability other_flags solution_id"  # fmt: skip


def table(names, n_stars=6, n_exposures=5):
    """Every star in every exposure, with plausible numbers under the given names."""
    star, exposure = (a.ravel() for a in np.meshgrid(np.arange(n_stars), np.arange(n_exposures)))
    rng = np.random.default_rng(1)
    flux = 10 ** (0.4 * (20.0 - rng.normal(16, 1, n_stars)[star]))
    ra, dec = 20.0 + 0.01 * star, -30.0 + 0.01 * star
    known = {
        "oid": star + 486101100000123, "objectId": star + 2**60, "objID": star + 2**58,
        "source_id": star + 2**59,
        "expid": exposure + 45030090, "visit": exposure + 2024111000, "EXPNUM": exposure + 229000,
        "imageID": exposure * 100 + 3,
        "transit_id": exposure + 5 * 10**16, "filtercode": "zg", "band": "r", "BAND": "i",
        "filterID": 3, "mag": 16.0, "magerr": 0.02, "psfFlux": flux, "psfFluxErr": 0.01 * flux, "FLUX_PSF": flux,
        "FLUXERR_PSF": 0.01 * flux, "flux": flux, "flux_error": 0.01 * flux, "ra": ra, "dec": dec, "coord_ra": ra,
        "coord_dec": dec, "RA": ra, "DEC": dec, "ALPHAWIN_J2000": ra, "DELTAWIN_J2000": dec,
        "catflags": 0,
        "psfFlux_flag": False, "FLAGS": 0, "rejected_by_photometry": False,
        "mjd": 58204.3 + exposure,
        "obsTime": 55500.3 + exposure, "expMidptMJD": 60632.1 + exposure, "airmass": 1.2, "airMass": 1.3,
        "exptime": 30.0,
        "expTime": 45.0, "ccdid": 3, "detector": 4, "CCDNUM": 5, "x": 100.0 * star, "y": 9.0 * star,
        "xPos": 100.0 * star,
        "yPos": 9.0 * star, "XWIN_IMAGE": 100.0 * star, "YWIN_IMAGE": 9.0 * star, "sky": -12.5,
    }  # fmt: skip
    columns = {n: np.broadcast_to(known.get(n, 7), star.shape) for n in names.split()}
    return pl.DataFrame({n: v.tolist() if v.dtype.kind == "U" else v.copy() for n, v in columns.items()})


CASES = {
    # columns, those that are read, conditions, an AB magnitude of flux 1 or none, named stars
    "ztf": (ZTF, {"mag", "mag_err", "band", "detector", "ra", "dec", "flag"}, {"mjd", "airmass", "exptime"}, True),
    "lsst": (SOURCE, {"flux", "flux_err", "band", "detector", "ra", "dec", "x", "y", "flag"}, set(), False),
    "lsst forced": (FORCED, {"flux", "flux_err", "band", "detector", "ra", "dec", "flag"}, set(), True),
    "des": (DES, {"flux", "flux_err", "band", "detector", "ra", "dec", "x", "y", "flag"}, set(), False),
    "ps1": (PS1, {"flux", "flux_err", "band", "ra", "dec", "x", "y"}, {"mjd", "airmass", "exptime"}, True),
    "gaia": (GAIA, {"flux", "flux_err", "band", "flag"}, set(), True),
}
ZERO = {"lsst": 31.4, "lsst forced": 31.4, "des": 0.0, "ps1": 8.9, "gaia": 0.0}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:numpy")
def test_each_reads_its_table(case, tmp_path):
    names, read, conditions, named = CASES[case]
    preset, frame = case.split()[0], table(names)
    frame.write_parquet(tmp_path / "t.parquet")
    m = read_measurements(tmp_path / "t.parquet", preset=preset)
    assert m.counts == {"usable": 30}
    made = {"night"} if "mjd" in conditions else set()
    assert set(m.given) == read | conditions | made | {"exposure_id"} | ({"star_id"} if named else set())
    assert m.association is None if named else m.association.n_stars == 6
    assert m.frame["star_id"].n_unique() == 6
    assert m.frame["exposure_id"].n_unique() == 5
    if preset in ZERO:
        flux = frame[m.inputs[0]["columns"]["flux"]].to_numpy()
        np.testing.assert_allclose(m.frame["mag"], ZERO[case] - 2.5 * np.log10(flux), atol=1e-4)
        np.testing.assert_allclose(m.frame["mag_err"], 0.01 * 2.5 / np.log(10), rtol=1e-5)
    else:
        assert m.frame["mag"].to_list() == frame["mag"].to_list()
    assert m.system == {"lsst": "AB", "ps1": "AB", "ztf": ""}.get(preset, "instrumental")
    assert m.time_scale == ("tai" if preset == "ps1" else "")
    assert m.exposures["sky"].null_count() == m.exposures.height
    batches = list(iter_measurements(tmp_path / "t.parquet", preset=preset, batch_rows=7)) if named else []
    assert sum(len(b) for b in batches) == (30 if named else 0)


def test_exposures_have_their_names_too():
    m = read_measurements(table(SOURCE), exposures=table(VISIT, 1), preset="lsst")
    assert m.exposures["airmass"].to_list() == [1.2] * 5
    assert m.exposures["exptime"].to_list() == [45.0] * 5
    assert m.exposures["mjd"].to_list() == pytest.approx([60632.1, 60633.1, 60634.1, 60635.1, 60636.1])
    assert m.time_scale == "tai"


def test_what_is_explicit_comes_first():
    frame = table(ZTF).with_columns(m2=pl.lit(17.5), e2=pl.lit(0.5), group=pl.lit("a"))
    m = read_measurements(frame, columns={"mag": "m2", "mag_err": "e2", "band": "group", "detector": ""}, preset="ztf")
    assert m.frame["mag"].unique().to_list() == [17.5]
    assert m.frame["band"].cast(pl.String).unique().to_list() == ["a"]
    assert "detector" not in m.frame.columns
    assert read_measurements(frame, columns={"star_id": ""}, preset="ztf").association.n_stars == 6
    des = table(DES).with_columns(MAG_PSF=pl.lit(18.0), MAGERR_PSF=pl.lit(0.1))
    assert read_measurements(des, preset="des").frame["mag"].unique().to_list() == [18.0]
    flux = read_measurements(des, columns={"flux": "FLUX_AUTO"}, preset="des")
    assert flux.inputs[0]["columns"]["flux"] == "FLUX_AUTO"
    assert read_measurements(des.drop("MAGERR_PSF"), preset="des").inputs[0]["columns"]["flux"] == "FLUX_PSF"
    inst = table(SOURCE).with_columns(instMag=pl.lit(15.0), instMagErr=pl.lit(0.1))
    m = read_measurements(inst, columns={"mag": "instMag", "mag_err": "instMagErr"}, preset="lsst")
    assert m.frame["mag"].unique().to_list() == [15.0]


def test_a_files_own_unit_comes_first(tmp_path):
    from astropy.table import QTable

    frame = table(PS1)
    q = QTable({n: frame[n].to_numpy() for n in frame.columns}, units={"psfFlux": "mJy", "psfFluxErr": "mJy"})
    m = read_measurements(q, preset="ps1")
    np.testing.assert_allclose(m.frame["mag"], 16.4 - 2.5 * np.log10(frame["psfFlux"]), atol=1e-3)


@pytest.mark.parametrize(
    ("preset", "names", "lost", "said"),
    [
        ("ztf", ZTF, ["expid"], "no column for exposure_id, which preset ztf looks for under expid; it"),
        ("ztf", ZTF, ["magerr"], "no column for mag and mag_err, which preset ztf looks for under mag, magerr"),
        ("ztf", ZTF, ["oid", "ra", "dec"], "no column for star_id, or ra and dec, which preset ztf looks for"),
        ("lsst", SOURCE, ["psfFlux"], "no column for flux and flux_err, which preset lsst looks for under psfFlux"),
        ("des", DES, ["EXPNUM"], "which preset des looks for under EXPNUM"),
        ("ps1", PS1, ["psfFluxErr"], "which preset ps1 looks for under psfFlux, psfFluxErr"),
        ("gaia", GAIA, ["source_id"], "which preset gaia looks for under source_id"),
    ],
)
def test_a_needed_column_that_is_missing(preset, names, lost, said):
    with pytest.raises(InputError, match=said):
        read_measurements(table(names).drop(lost), preset=preset)


@pytest.mark.parametrize("case", CASES)
def test_what_is_optional_may_be_missing(case):
    names, _, _, named = CASES[case]
    preset = case.split()[0]
    columns = PRESETS[preset].columns
    needed = ("star_id",) if named else ("ra", "dec")
    kept = [own for n in (*needed, "exposure_id", "mag", "mag_err", "flux", "flux_err") for own in columns.get(n, ())]
    frame = table(names)
    m = read_measurements(frame.select(c for c in frame.columns if c in kept), preset=preset)
    assert m.counts == {"usable": 30}


def test_only_a_presets_own_names_are_used():
    with pytest.raises(InputError, match="preset lsst"):
        read_measurements(table(PS1), preset="lsst")
    with pytest.raises(InputError, match="preset is 'sdss'; it is one of ztf, lsst, des, ps1, gaia"):
        read_measurements(table(PS1), preset="sdss")
    with pytest.raises(ConfigError, match="preset is 'sdss'; it is one of ztf, lsst, des, ps1, gaia"):
        Config(preset="sdss")
    assert tuple(PRESETS) == SURVEYS
    for preset in PRESETS.values():
        assert set(preset.columns) <= set(CANONICAL)
        assert f"`{preset.name}`" in presets_markdown()
        theirs = {own for names in preset.columns.values() for own in names}
        assert set(preset.units) | set(preset.time_scales) <= theirs
    # a table of canonical names is read as without
    assert read_measurements(survey(), preset="ztf").frame.equals(read_measurements(survey()).frame)


def test_apply_takes_that_of_the_solve():
    rng = np.random.default_rng(3)
    frame = table(ZTF, 40, 8)
    zero = rng.normal(0, 0.1, 8)[frame["expid"].to_numpy() - 45030090]
    frame = frame.with_columns(mag=pl.Series(16 + rng.normal(0, 0.02, frame.height) + zero))
    solution = calibrate(frame, config=Config(preset="ztf", method="wls", score=False, extinction="off"))
    assert solution.diagnostics["config"]["preset"] == "ztf"
    again = pl.concat(list(apply_frames(solution, frame)))
    np.testing.assert_allclose(again["calibrated_mag"], solution.measurement_frame()["calibrated_mag"], atol=1e-9)
    renamed = frame.rename({"oid": "star_id", "expid": "exposure_id", "magerr": "mag_err", "filtercode": "band"})
    named = pl.concat(list(apply_frames(solution, renamed.rename({"ccdid": "detector"}), columns={})))
    assert named["calibrated_mag"].equals(again["calibrated_mag"])
    other = table(ZTF, 40, 8).rename({"magerr": "e"})
    assert len(list(apply_frames(solution, other, columns={"mag_err": "e"}, preset="ztf"))) == 1
