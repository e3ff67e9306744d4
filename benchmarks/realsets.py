"""Where the real data sets are, and how a user brings each of them to the columns of a calibration."""

import os
from pathlib import Path

import polars as pl

HOME = Path(os.environ.get("CALIB_REALDATA") or Path(__file__).resolve().parents[2] / "shared" / "realdata")


def folder(name: str) -> Path:
    """Of a data set.

    Raises
    ------
    FileNotFoundError
        It is not there; the message says what to do.
    """
    found = HOME / name
    if not (found / "measurements.parquet").is_file():
        raise FileNotFoundError(
            f"no {name}/measurements.parquet in {HOME}; set CALIB_REALDATA to the folder of the real data sets"
        )
    return found


def hst() -> tuple[pl.DataFrame, pl.DataFrame, dict[str, tuple[float, float]]]:
    """Measurements with one exposure_id a band and cycle; the CALSPEC stars; published values and errors by name."""
    home = folder("hst_wd_standards")
    frame = pl.read_parquet(home / "measurements.parquet").with_columns(
        group=pl.format("{}-c{}", pl.col("band"), pl.col("hst_cycle"))
    )
    stars = frame.select("obj", "star_id").unique()
    anchors = pl.read_csv(home / "calspec_anchors.csv").join(stars, on="obj")
    # CALSPEC's tables hold no errors; its flux scale is good to half a per cent (Bohlin, Gordon & Tremblay 2014)
    reference = anchors.select("star_id", "band", mag="calspec_ab", mag_err=pl.lit(0.005)).sort("star_id", "band")
    truth = pl.read_csv(home / "truth_zeropoints.csv", null_values="NaN")
    values = {
        f"{row['param']} {row['band']}": (row["value"], row["err"])
        for row in truth.drop_nulls("value").iter_rows(named=True)
    }
    return frame.select("star_id", "group", "band", "mag_inst", "mag_err"), reference, values


def photrix() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Measurements, nearly saturated ones flagged; catalogue magnitudes of the comparison stars."""
    frame = pl.read_parquet(folder("photrix_vri") / "measurements.parquet")
    reference = (
        frame.filter((pl.col("star_type") == "Comp") & pl.col("cat_mag").is_not_null())
        .select("star_id", "band", mag="cat_mag", mag_err="cat_mag_err")
        .unique(["star_id", "band"], maintain_order=True)
    )
    columns = ("star_id", "exposure_id", "band", "mag_inst", "mag_err", "airmass", "exptime")
    measurements = frame.select(*columns, mjd=pl.col("jd_mid") - 2400000.5, flag=pl.col("max_adu") > 54000)
    return measurements, reference


def hsc() -> pl.DataFrame:
    """Instrumental magnitudes of stars, saturated ones and those at the detectors' edges flagged."""
    frame = pl.read_parquet(folder("hsc_ci_faro") / "measurements.parquet")
    return frame.filter(pl.col("mag_inst").is_not_null() & pl.col("is_star").fill_null(False)).select(
        "star_id", "exposure_id", "band", "mag_inst", "mag_err", "zp_pipeline",
        flag=pl.col("flag_saturated_center") | pl.col("edge"),
    )  # fmt: skip


def m3() -> pl.DataFrame:
    """All measurements of the cluster, with both kinds of error."""
    frame = pl.read_parquet(folder("m3_rothney") / "measurements.parquet")
    return frame.select("star_id", "exposure_id", "band", "mag_inst", "mag_err", "mag_err_total", "x", "y")
