from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calib.config import Config
from calib.describe import describe, fields
from calib.model.problem import Problem
from calib.tables import read_measurements


def rows(links: dict[str, list[int]], err: float = 0.0, stars: int = 20) -> pl.DataFrame:
    """``stars`` stars in each named group, each star in all of the group's exposures."""
    out = [
        (f"{name}-{s}", e, 15.0 + 0.01 * s, max(err, 1e-4))
        for name, exposures in links.items()
        for s in range(stars if not name.startswith("thread") else int(name[6:]))
        for e in exposures
    ]
    return pl.DataFrame(out, schema=["star_id", "exposure_id", "mag", "mag_err"], orient="row")


def described(frame: pl.DataFrame, exposures: pl.DataFrame | None = None) -> dict:
    found = describe(read_measurements(frame, exposures=exposures), Config())
    json.dumps(found)
    return found


def test_components_and_isolated() -> None:
    found = described(rows({"a": [1, 2, 3], "b": [4, 5], "c": [9]}))
    assert [c["n_exposures"] for c in found["components"]] == [3, 2]
    assert [c["n_measurements"] for c in found["components"]] == [60, 40]
    assert found["isolated"] == [{"exposure_id": 9}]
    assert found["visits"]["histogram"] == {"1": 20, "2": 20, "3-4": 20}
    assert found["joins"] == []


def test_unused_rows_by_reason() -> None:
    frame = rows({"a": [1, 2]}).with_columns(pl.Series("mag", [None, np.nan, *[15.0] * 38]))
    found = described(frame)
    assert found["rows"] == {"total": 40, "usable": 38}
    assert found["unused"] == {"null_mag": 1, "non_finite_mag": 1}


def test_what_hangs_by_a_thread() -> None:
    found = described(rows({"a": [1, 2, 3], "b": [4, 5, 6], "thread2": [3, 4], "thread1": [6, 7]}))
    threads = found["threads"]
    assert threads["thin_exposures"] == [{"exposure_id": 7, "n_tying_stars": 1}]
    assert threads["n_bridges"] == 2
    assert {(b["first"]["exposure_id"], b["second"]["exposure_id"], b["n_shared"]) for b in threads["bridges"]} == {
        (3, 4, 2),
        (6, 7, 1),
    }
    assert [e["exposure_id"] for e in threads["articulation_exposures"]] == [3, 4, 6]
    cuts = {(c["n_stars"], tuple(e["exposure_id"] for e in c["exposures"])) for c in threads["cuts"]}
    assert cuts == {(1, (7,)), (2, (1, 2, 3)), (3, (4, 5, 6))}


def chain(n: int, err: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A strip: each exposure shares 20 stars with the next, one degree on."""
    frame = rows({f"l{i:03d}": [i, i + 1] for i in range(n - 1)}, err=err)
    exposures = pl.DataFrame(
        {"exposure_id": range(n), "ra": [(355.0 + i) % 360.0 for i in range(n)], "dec": [10.0] * n}
    )
    return frame, exposures


def test_weakest_mode_of_a_strip_is_its_length() -> None:
    n, err = 30, 0.02
    found = described(*chain(n, err))
    (mode,) = found["modes"]
    variance = err**2 + found["floor_mag"] ** 2
    weight = 20 / (2 * variance)  # of a link: 20 stars, each in two exposures
    softest = weight * (2 - 2 * np.cos(np.pi / n))
    assert mode["rms_mag"] == pytest.approx(1 / np.sqrt(softest * n), rel=1e-6)
    assert mode["along"] == "ra"
    assert abs(mode["correlation"]) > 0.95
    assert {mode["high"]["exposure_id"], mode["low"]["exposure_id"]} == {0, n - 1}
    first = found["new_links"][0]
    ends = {first["first"]["exposures"][0]["exposure_id"], first["second"]["exposures"][0]["exposure_id"]}
    assert first["rms_removed_mag"] > 0
    # one pointing cannot tie the ends of the strip: exposures share stars up to a degree, which is taken as their width
    assert found["new_links_reach_deg"] == pytest.approx(2.0 * np.cos(np.radians(10.0)), rel=1e-3)
    assert 1 <= max(ends) - min(ends) <= 2
    assert all(link["distance_deg"] <= found["new_links_reach_deg"] for link in found["new_links"])


def test_without_places_any_link_is_proposed() -> None:
    n = 30
    frame, _ = chain(n, 0.02)
    found = described(frame)
    first = found["new_links"][0]
    ends = {first["first"]["exposures"][0]["exposure_id"], first["second"]["exposures"][0]["exposure_id"]}
    assert found["new_links_reach_deg"] is None
    assert min(ends) < n / 4
    assert max(ends) > 3 * n / 4


def test_nearest_exposures_of_components() -> None:
    frame = rows({"a": [1, 2, 3], "b": [4, 5]})
    exposures = pl.DataFrame({"exposure_id": [1, 2, 3, 4, 5], "ra": [10.0, 11.0, 12.0, 13.5, 20.0], "dec": [0.0] * 5})
    (join,) = described(frame, exposures)["joins"]
    assert {join["first"]["exposure_id"], join["second"]["exposure_id"]} == {3, 4}
    assert join["distance_deg"] == pytest.approx(1.5)


def test_fields_are_pointings_visited_again(survey: Path) -> None:
    measurements = read_measurements(survey / "measurements.parquet", exposures=survey / "exposures.parquet")
    problem = Problem.of(measurements, Config())
    field = fields(problem, problem.graph.exposure_graph())
    assert field is not None
    assert 1 < field.max() + 1 < problem.nodes.height
    ra, dec = problem.nodes["ra"].to_numpy(), problem.nodes["dec"].to_numpy()
    for f in range(field.max() + 1):
        assert np.ptp(ra[field == f]) < 1.0
        assert np.ptp(dec[field == f]) < 1.0


def test_nothing_that_can_be_used_is_described_too() -> None:
    found = described(rows({"a": [1, 2]}).with_columns(mag=pl.lit(np.nan)))
    assert found["rows"]["usable"] == 0
    assert found["components"] == []


def test_order_of_rows_does_not_matter() -> None:
    frame, exposures = chain(12, 0.01)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=2)
    one, two = described(frame, exposures), described(shuffled, exposures)
    assert one["components"] == two["components"]
    assert one["threads"] == two["threads"]
    assert one["modes"][0]["rms_mag"] == pytest.approx(two["modes"][0]["rms_mag"], rel=1e-6)


class TestCommand:
    def test_for_people(self, calib, survey: Path) -> None:
        status, out, err = calib("check", survey / "measurements.parquet", "--exposures", survey / "exposures.parquet")
        assert (status, err) == (0, "")
        for words in ("6,455", "band g", "2 components", "weakest large-scale mode", "would help most", "mjd"):
            assert words in out

    def test_long_names_of_bands_keep_their_distance(self, calib, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        frame = rows({"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]})
        pl.concat([frame.with_columns(band=pl.lit(b)) for b in ("g", "NB455_narrow")]).write_csv(table)
        status, out, _ = calib("check", table)
        assert status == 0
        assert "band NB455_narrow  3 exposures" in out.split("hangs by a thread")[0]
        assert "  component 0    band " in out
        assert out.count("band NB455_narrow  3 exposures") == 2

    def test_threads_in_words(self, calib, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        rows({"a": [1, 2, 3], "b": [4, 5, 6], "thread2": [3, 4], "c": [9], "d": [10, 11]}).write_csv(table)
        status, out, _ = calib("check", table)
        assert status == 0
        assert "3 exposures hang together on 2 stars: 1, 2, 3" in out
        assert "3 - 4 (2 stars)" in out
        assert "1 exposure without a star in common" in out
        assert "2 components" in out

    def test_json(self, calib, survey: Path) -> None:
        status, out, _ = calib("check", survey / "measurements.parquet", "--json")
        assert status == 0
        found = json.loads(out)
        assert found["n_exposures"] == 40
        assert found["new_links"]

    def test_nothing_is_linked(self, calib, tmp_path: Path) -> None:
        rows({"a": [1], "b": [2]}).write_csv(tmp_path / "t.csv")
        status, out, _ = calib("check", tmp_path / "t.csv")
        assert status == 0
        assert "nothing can be calibrated" in out
