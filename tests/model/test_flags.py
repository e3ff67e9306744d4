"""The registry of flags, and the page made from it."""

from pathlib import Path

import numpy as np
import pytest

from calib.model.flags import FLAGS, flags_markdown, join_flags

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def test_names_are_unique_and_plain():
    names = [f.name for f in FLAGS]
    assert len(set(names)) == len(names)
    assert all(n.replace("_", "").isalpha() and n.islower() for n in names)
    assert all(f.meaning and "|" not in f.meaning for f in FLAGS)


def test_joined_in_the_registrys_order():
    a, b, c = (FLAGS[k].name for k in (0, 2, 4))
    raised = {c: np.array([True, False, True]), a: np.array([True, False, False]), b: np.array([True, False, False])}
    assert join_flags(raised) == [f"{a},{b},{c}", "", c]
    assert join_flags({}) == []


def test_unknown_flags_are_refused():
    with pytest.raises(KeyError, match="ghostly"):
        join_flags({"ghostly": np.ones(2, bool)})


def test_markdown_has_a_row_for_each():
    lines = flags_markdown().splitlines()
    assert lines[:2] == ["| flag | meaning |", "|---|---|"]
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [f.name for f in FLAGS]


def test_the_page_is_current():
    assert flags_markdown() in PAGE.read_text(encoding="utf-8"), "docs/flags.md is not what flags_markdown() says"
