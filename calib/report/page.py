"""The page: sections of figures and tables in a template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from calib.report import headline, network, residuals, run_tables, style, tables, terms, trust, zeropoints
from calib.report.material import Material, read_material
from calib.report.style import Picture
from calib.report.text import Table
from calib.tables.write import atomic_path

Block = Picture | Table | None


@dataclass(frozen=True)
class Section:
    """A part of the page: figures and tables, each with its place: half, wide, or lone with nothing beside it."""

    key: str
    title: str
    blocks: list[tuple[str, Picture | Table]]


def write(folder: Path) -> Path:
    """Write report.html; see `calib.report.write_report`."""
    page = render(read_material(folder))
    path = folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(material: Material) -> str:
    """The page as text."""
    import jinja2

    here = files("calib.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("page.html").read_text(encoding="utf-8"))
    shown = [s for s in sections(material) if s.blocks]
    config = material.run.get("config")
    return template.render(
        style=here.joinpath("page.css").read_text(encoding="utf-8"),
        head=headline.headline(material),
        warnings=headline.warnings(material),
        sections=shown,
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        date=datetime.now(UTC),
    )


def sections(material: Material) -> list[Section]:
    """Every part of the page, in order; what the solution does not have is absent."""
    run = material.run
    with style.theme():
        net = network.network(material)
        return [
            _section("zeropoints", "Zero-points", [zeropoints.in_time(material), zeropoints.on_sky(material)]),
            _section(
                "trust", "Can the errors be believed?",
                [
                    zeropoints.errors(material), trust.pulls(material), run_tables.scores(run),
                    run_tables.held_out_nights(run),
                ],
            ),
            _section(
                "residuals", "Residuals",
                [residuals.against_magnitude(material), residuals.on_sky(material), residuals.weights(material),
                 residuals.weight_ratios(material)],
            ),
            _section(
                "terms", "Terms beyond the zero-point",
                [
                    terms.surface(material), terms.extinction(material), run_tables.terms_tried(run),
                    tables.terms(material),
                ],
            ),
            _section("exposures", "Exposures", [trust.exposures(material), tables.flagged(material)]),
            _section(
                "links", "Links",
                [
                    network.picture(material, net), run_tables.components(run),
                    tables.weak(network.weak_rows(material, net)),
                ],
            ),
            _section("stars", "Stars", [tables.variables(material)]),
            _section("run", "The run", [run_tables.unused(run), run_tables.course(run), run_tables.inputs(run)]),
        ]  # fmt: skip


def _section(key: str, title: str, blocks: Sequence[Block]) -> Section:
    there = [b for b in blocks if b is not None]
    placed: list[tuple[str, Picture | Table]] = []
    for i, block in enumerate(there):
        first = i == 0 or placed[-1][0] != "half left"
        alone = first and (i + 1 == len(there) or there[i + 1].wide)
        place = "wide" if block.wide else "lone" if alone else "half left" if first else "half right"
        placed.append((place, block))
    return Section(key, title, placed)
