"""Reference stars are checked as measurements are."""

import astropy.units as u
import numpy as np
import polars as pl
import pytest
from astropy.table import QTable

from calib.tables import InputError, read_measurements, read_reference

from .conftest import BIG


def stars(**more):
    return pl.DataFrame(
        {"star_id": [BIG + 2, BIG + 1, BIG], "mag": [17.0, 16.0, 15.0], "mag_err": [0.01, 0.01, 0.02], **more}
    )


def test_usable_rows_sorted(table):
    r = read_reference(stars(flag=[0, 1, 0]))
    assert r.frame["star_id"].to_list() == [BIG, BIG + 2]
    assert [str(t) for t in r.frame.dtypes] == ["Int64", "String", "Float64", "Float64"]
    assert r.frame["band"].to_list() == ["", ""]
    assert r.counts == {"usable": 2, "flagged": 1}
    assert "1 reference row not used (flagged 1)" in r.warnings[0]
    r.check(read_measurements(table))
    with pytest.raises(InputError, match="none of 2 reference stars is measured"):
        r.check(read_measurements(table.with_columns(pl.col("star_id") + 100)))
    with pytest.raises(InputError, match="star_id is Int64 and in the measurements String"):
        r.check(read_measurements(table.with_columns(pl.col("star_id").cast(pl.String))))


def test_mapping_units_and_bands(tmp_path):
    q = QTable({"star_id": ["a", "b"], "filter": ["r", "g"], "flux": [3631, 36.31] * u.Jy, "flux_err": [1, 1] * u.Jy})
    q.write(tmp_path / "r.ecsv")
    r = read_reference(tmp_path / "r.ecsv", {"band": "filter", "mag": "mag_inst", "exposure_id": "visit"})
    np.testing.assert_allclose(r.frame["mag"], [0, 5], atol=1e-3)
    assert r.frame["band"].to_list() == ["r", "g"]
    assert r.system == "AB"
    assert len(r.inputs[0]["sha256"]) == 64


def test_repeats():
    twice = pl.concat([stars(), stars()])
    r = read_reference(twice)
    assert r.frame.height == 3
    assert r.counts == {"usable": 3, "duplicate": 3}
    with pytest.raises(InputError, match="2 rows give a star and band several magnitudes"):
        read_reference(pl.concat([stars(), stars().head(1).with_columns(pl.col("mag") + 1)]))


def test_refused():
    with pytest.raises(InputError, match="no reference star is usable"):
        read_reference(stars(flag=[1, 1, 1]))
    with pytest.raises(InputError, match="no column mag_err"):
        read_reference(stars().drop("mag_err"))
    with pytest.raises(InputError, match="has no rows"):
        read_reference(stars().head(0))
    q = QTable({"star_id": [1], "flux": [1] * u.adu, "flux_err": [1] * u.adu})
    with pytest.raises(InputError, match="are in counts"):
        read_reference(q)
