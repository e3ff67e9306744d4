"""The page: whole, self-contained, escaped, the same every time."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from calib.report import write_report
from calib.tables import InputError

VOID = {"meta", "br", "hr", "img", "link", "input"}
PICTURES = 12
"""Figures of the full solution."""


class Page(HTMLParser):
    """Tags that open and close, attributes, and text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.opened: list[str] = []
        self.text: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.opened:
            self.text.append(data)
        if self.opened and self.opened[-1] == "h3":
            self.titles.append(data)


def read(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    return path.read_text(encoding="utf-8")


def undated(text: str) -> str:
    return re.sub(r"<time.*?</time>", "", text)


def test_everything_is_there(whole):
    text = whole
    page = Page(text)
    assert text.count("<figure") == text.count('<svg role="img" aria-label="') == PICTURES
    assert text.count("<figcaption>") == PICTURES
    said = " ".join(page.text)
    for words in (
        "survey", "Two components fall apart.", "held-out stars prefer it", "nonpositive_flux", "ab" * 32, "mag ← m",
        "Configuration, resolved", "uncertain", "Stars that seem to vary", "Other fitted terms", "0.0.test", "200 MB",
        "errors inflated in component 0", "Local terms tried",
    ):  # fmt: skip
        assert words in said, words
    assert "nan" not in re.findall(r"[a-z]+", said.lower())
    assert len(text) < 3_000_000


def test_nothing_from_elsewhere(whole):
    text = whole
    for tag, name, value in Page(text).attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value is not None
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
    assert "<script" not in text
    assert "http" not in text
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_found(whole):
    page = Page(whole)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        inner = name == "href" and value and value.startswith("#")
        targets = [value] if inner else re.findall(r"url\((#[^)]*)\)", value or "")
        assert all(target[1:] in ids for target in targets)


def test_same_input_same_page_and_settings_are_restored(make, whole):
    import matplotlib

    before = dict(matplotlib.rcParams)
    had = "matplotlib.pyplot" in sys.modules
    assert undated(read(make())) == undated(whole)
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had


def test_colours_follow_the_theme(whole):
    from calib.report.style import VARIABLES

    text = whole
    for color, variable in VARIABLES.items():
        assert color not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        assert text.split("</style>")[0].count(f"{variable}:") >= 2


def test_user_text_is_escaped(make):
    evil = '<script>alert("$1&x")</script>'

    def change(tables, run):
        for kind in ("zeropoints", "measurements"):
            tables[kind] = tables[kind].with_columns(
                pl.when(pl.col("exposure_id") == 5)
                .then(pl.lit(evil))
                .otherwise(pl.col("exposure_id").cast(pl.String))
                .alias("exposure_id"),
                pl.col("band").replace("g", evil),
            )
        tables["stars"] = tables["stars"].with_columns(
            pl.format("{}{}", pl.lit(evil), pl.col("star_id")).alias("star_id"), pl.col("band").replace("g", evil)
        )
        tables["measurements"] = tables["measurements"].with_columns(
            pl.format("{}{}", pl.lit(evil), pl.col("star_id")).alias("star_id")
        )
        tables["terms"] = tables["terms"].with_columns(pl.col("band").replace("g", evil), pl.lit(evil).alias("name"))
        run["inputs"][0]["path"] = f"/data/{evil}/{evil}.parquet"
        run["warnings"] = [evil]
        run["method"] = run["method_reason"] = evil
        run["scores"] = {evil: run["scores"]["robust"]}
        run["terms_tried"][0]["terms"] = evil
        run["components"][0]["band"] = run["components"][0]["gauge"] = evil
        run["config"]["columns"] = {"mag": evil}
        run["counts"] |= {evil: 3}

    text = read(make(change))
    assert "<script" not in text
    assert "alert(" in text
    Page(text)


@pytest.mark.parametrize("bands", [("$", "_g", "a\\b", "x^{2}$y"), ("星", "\n\t", "b" * 200, "%s")])
def test_odd_bands_are_drawn(make, bands):
    text = read(make(bands=bands))
    assert text.count("<figure") >= PICTURES - 1


def test_no_solution(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(InputError, match=r"zeropoints\.parquet"):
        write_report(tmp_path)


def test_older_page_stays_when_the_new_one_fails(make):
    folder = make()
    (folder / "report.html").write_text("older", encoding="utf-8")
    (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not JSON"):
        write_report(folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == "older"


def test_import_is_light():
    import subprocess

    code = "import calib.report, sys; assert not {'matplotlib', 'jinja2', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_exposures_stay_small(make):
    def change(tables, run):
        for kind, copies in (("zeropoints", 250), ("measurements", 20)):
            frame = tables[kind]
            tables[kind] = pl.concat(frame.with_columns(pl.col("exposure_id") + 1000 * c) for c in range(copies))

    folder = make(change)
    text = read(folder)
    assert len(text) < 3_000_000
    assert text.count("<figure") >= PICTURES - 1


def test_a_star_flat_is_in_the_map_of_the_field_and_not_in_the_table(make, whole):
    def with_flat(tables, run):
        cells = [f"{i},{j}" for i in range(8) for j in range(8)]
        flat = pl.DataFrame({"name": "flat", "band": "g", "detector": cells, "value": 0.02, "err": 0.001})
        tables["terms"] = pl.concat([tables["terms"], flat], how="diagonal")

    drawn = read(make(with_flat))
    assert "flat 0,0" not in drawn
    assert Page(drawn).titles == Page(whole).titles

    def picture(page):
        return page.split("<h3>Mean surface across the field</h3>")[1].split("</svg>")[0]

    assert picture(drawn) != picture(whole)
