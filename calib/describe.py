"""What measurements can be solved for, before anything is solved: components, threads, weak modes, useful links."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from calib.config import Config
from calib.model.field import tangent_offsets
from calib.model.problem import Problem
from calib.tables.exposures import CONDITIONS
from calib.tables.measurements import Measurements
from calib.tables.misplaced import many_misplaced
from graphs import ExposureGraph

Array = NDArray[np.float64]

FLOOR = 0.005
"""Noise, mag, added in quadrature to reported errors, which are too small in practice."""
FEW = 10
"""Stars that count as few where they tie an exposure, or a group of them, to the rest."""
MODES = 12
"""Softest modes among which the weakest large-scale one is looked for."""
LARGE_SCALE = 0.05
"""A mode is of large scale when it takes part of the component's exposures at least, and three of them."""
REACH = 2.0
"""Fields whose centres are within this many widths of a field can be joined by one pointing over or between them."""
SAME_FIELD = 0.25
"""Exposures whose centres are within this part of the field's diameter are of one field."""
LISTED = 20
"""Most entries of a list."""


def describe(measurements: Measurements, config: Config | None = None) -> dict[str, Any]:
    """Describe measurements; solves nothing.

    Sizes of modes and gains are standard errors in mag, from the reported errors and a floor of `FLOOR`, as if noise
    were all there is.

    Parameters
    ----------
    measurements
        From `calib.tables.read_measurements`.
    config
        Says whether zero-points are per exposure or per detector.

    Returns
    -------
    dict
        Plain numbers, texts, lists and dicts: rows, association (None where stars have names), bands, visits,
        conditions, components, isolated, threads, modes, new_links, new_links_reach_deg (fields farther apart are not
        proposed; None where places are unknown), joins, warnings.
    """
    problem = Problem.of(measurements, config or Config())
    weight = 1.0 / (problem.err.astype(float) ** 2 + FLOOR**2)
    graph = problem.graph.exposure_graph(weight)
    labels = graph.components()
    size = np.bincount(labels, minlength=1)
    names = _names(problem)
    field = fields(problem, graph)
    width = field_width(problem, graph)
    reach = None if width is None or field is None else REACH * width
    counts = measurements.counts
    return {
        "inputs": measurements.inputs,
        "rows": {"total": len(measurements), "usable": counts["usable"]},
        "unused": {name: n for name, n in counts.items() if name != "usable"},
        "association": None if measurements.association is None else asdict(measurements.association),
        "n_stars": int(problem.stars["star_id"].n_unique()),
        "n_exposures": int(problem.nodes["exposure_id"].n_unique()),
        "n_fields": None if field is None else int(field.max()) + 1,
        "bands": _bands(problem),
        "visits": _visits(graph, problem),
        "magnitudes": _quantiles(problem.m),
        "errors": _quantiles(problem.err.astype(float)),
        "conditions": {c: _known(problem.nodes, c) for c in CONDITIONS if c in problem.nodes.columns},
        "nights": 0 if problem.night is None else int(np.unique(problem.night[problem.night >= 0]).size),
        "components": _components(problem, labels, size),
        "isolated": [names[e] for e in np.flatnonzero(size[labels] == 1)],
        "threads": _threads(graph, names),
        "modes": _modes(graph, problem, names, size),
        "new_links": _new_links(graph, problem, names, field, reach),
        "new_links_reach_deg": reach,
        "joins": _joins(problem, labels, size, names),
        "floor_mag": FLOOR,
        "warnings": [*measurements.warnings, *many_misplaced(measurements.frame, measurements.reason)],
    }


def _names(problem: Problem) -> list[dict[str, Any]]:
    """What identifies each node."""
    columns = [c for c in ("exposure_id", "band", "detector") if c in problem.nodes.columns]
    frame = problem.nodes.select(columns).with_columns(pl.col("band").cast(pl.String))
    if (frame["band"] == "").all():
        frame = frame.drop("band")
    return frame.to_dicts()


def _quantiles(values: Array) -> dict[str, float]:
    if not values.size:
        return {}
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"5%": float(low), "median": float(middle), "95%": float(high)}


def _known(nodes: pl.DataFrame, name: str) -> int:
    return int(nodes.height - nodes[name].null_count())


def _bands(problem: Problem) -> list[dict[str, Any]]:
    star_band = problem.stars["band"].cast(pl.String)
    measured = np.bincount(problem.band[problem.graph.exposure], minlength=len(problem.bands))
    rows = []
    for b, name in enumerate(problem.bands):
        rows.append(
            {
                "band": name,
                "n_exposures": int((problem.band == b).sum()),
                "n_stars": int((star_band == name).sum()),
                "n_measurements": int(measured[b]),
            }
        )
    return rows


def _visits(graph: ExposureGraph, problem: Problem) -> dict[str, Any]:
    """In how many exposures stars are: only those in two or more tie anything."""
    if graph.incidence is None or not problem.graph.n_stars:
        return {"histogram": {}, "median": 0.0}
    visits = np.diff(graph.incidence[0])
    edges = [0, 1, 2, 3, 5, 10, 20, 50, 100, np.inf]
    histogram = {}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        n = int(((visits >= low) & (visits < high)).sum())
        if n:
            last = high - 1
            histogram[f"{low:.0f}" if last == low else f"{low:.0f}+" if high == np.inf else f"{low:.0f}-{last:.0f}"] = n
    return {"histogram": histogram, "median": float(np.median(visits[visits > 0])) if visits.any() else 0.0}


def _components(problem: Problem, labels: NDArray[np.int32], size: NDArray[np.int64]) -> list[dict[str, Any]]:
    ptr, node = problem.graph.star_ptr, problem.graph.exposure
    measured = np.diff(ptr) > 0
    stars = np.bincount(labels[node[ptr[:-1][measured]]], minlength=size.size)
    measurements = np.bincount(labels[node], minlength=size.size)
    band = np.zeros(size.size, np.int32)
    band[labels] = problem.band
    order = np.argsort(-size, kind="stable")
    return [
        {
            "component": int(c),
            "band": problem.bands[band[c]],
            "n_exposures": int(size[c]),
            "n_stars": int(stars[c]),
            "n_measurements": int(measurements[c]),
        }
        for c in order
        if size[c] > 1
    ]


def _threads(graph: ExposureGraph, names: list[dict[str, Any]]) -> dict[str, Any]:
    """What hangs by few stars, and links and exposures without which the graph falls apart."""
    weak = graph.weak_links(FEW, LISTED)
    shared = {(int(a), int(b)): int(n) for (a, b), n in zip(graph.pairs(), graph.n_shared, strict=True)}
    bridges = graph.bridges()
    thin = weak.exposures[np.argsort(weak.n_tying_stars[weak.exposures], kind="stable")]
    articulation = graph.articulation_exposures()
    return {
        "few": FEW,
        "n_bridges": len(bridges),
        "bridges": [
            {"first": names[a], "second": names[b], "n_shared": shared[(int(a), int(b))]} for a, b in bridges[:LISTED]
        ],
        "n_articulation_exposures": len(articulation),
        "articulation_exposures": [names[e] for e in articulation[:LISTED]],
        "n_thin_exposures": len(thin),
        "thin_exposures": [{**names[e], "n_tying_stars": int(weak.n_tying_stars[e])} for e in thin[:LISTED]],
        "cuts": [
            {
                "n_stars": cut.n_stars,
                "n_exposures": len(cut.exposures),
                "exposures": [names[e] for e in cut.exposures[:LISTED]],
            }
            for cut in weak.cuts
        ],
    }


def _modes(
    graph: ExposureGraph, problem: Problem, names: list[dict[str, Any]], size: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """The weakest large-scale mode of each of the largest components."""
    out = []
    for c in np.argsort(-size, kind="stable")[:4]:
        if size[c] < 3:
            continue
        modes = graph.weak_modes(min(MODES, int(size[c]) - 1), int(c))
        taking_part = 1.0 / (modes.vector**4).sum(0)
        large = np.flatnonzero(taking_part >= max(3.0, LARGE_SCALE * size[c]))
        if not large.size:
            continue
        k = int(large[0])
        shape = modes.vector[:, k] / np.sqrt(modes.eigenvalue[k])
        inside = np.flatnonzero(graph.components() == c)
        along = _trend(shape[inside], problem.nodes[inside])
        out.append(
            {
                "component": int(c),
                "band": problem.bands[problem.band[inside[0]]],
                "rms_mag": float(modes.rms[k]),
                "peak_to_peak_mag": float(shape[inside].max() - shape[inside].min()),
                "n_taking_part": float(taking_part[k]),
                "high": names[int(np.argmax(shape))],
                "low": names[int(np.argmin(shape))],
                **along,
            }
        )
    return out


def _trend(shape: Array, nodes: pl.DataFrame) -> dict[str, Any]:
    """The condition with which a mode goes most."""
    best: dict[str, Any] = {"along": None, "correlation": None}
    for name in ("ra", "dec", "mjd", "airmass"):
        if name not in nodes.columns or nodes[name].null_count():
            continue
        x = nodes[name].cast(pl.Float64).to_numpy()
        if name == "ra":
            x = _unwrapped(x)
        if not (x.std() > 0 and shape.std() > 0):
            continue
        r = float(np.corrcoef(x, shape)[0, 1])
        if abs(r) > abs(best["correlation"] or 0.0):
            best = {"along": name, "correlation": r}
    return best


def _unwrapped(ra: Array) -> Array:
    """Right ascensions without a jump at 360 degrees within them."""
    middle = np.degrees(np.angle(np.exp(1j * np.radians(ra)).mean()))
    return np.asarray((ra - middle + 180.0) % 360.0)


def fields(problem: Problem, graph: ExposureGraph) -> NDArray[np.int64] | None:
    """Field of each node (E,), numbered: pointings within `SAME_FIELD` of a field's diameter; None without ra, dec.

    The diameter is that of the measurements about their exposures' centres, or, where measurements have no place on the
    sky, the largest distance at which exposures share stars.
    """
    width = field_width(problem, graph)
    if width is None:
        return None
    diameter = width
    if problem.field is not None and problem.field.kind == "sky":
        diameter = float(np.hypot(*_sides(problem)))
    ra, dec = problem.nodes["ra"].to_numpy(), problem.nodes["dec"].to_numpy()
    unit = _unit(ra, dec)
    near = cKDTree(unit).query_ball_point(unit, SAME_FIELD * np.radians(diameter) + 1e-9)
    field = np.full(len(ra), -1, np.int64)
    n = 0
    for e in range(len(ra)):
        if field[e] < 0:
            free = np.asarray(near[e])
            field[free[field[free] < 0]] = n
            n += 1
    return field


def field_width(problem: Problem, graph: ExposureGraph) -> float | None:
    """Width of a field, deg: the side of the measurements about their exposures' centres; None without ra, dec.

    Where measurements have no place on the sky, the largest distance at which exposures share stars.
    """
    nodes = problem.nodes
    if "ra" not in nodes.columns or nodes["ra"].null_count() or nodes["dec"].null_count():
        return None
    if problem.field is not None and problem.field.kind == "sky":
        return float(_sides(problem).max())
    pairs = graph.pairs()
    if not len(pairs):
        return None
    ra, dec = nodes["ra"].to_numpy(), nodes["dec"].to_numpy()
    dx, dy = tangent_offsets(ra[pairs[:, 0]], dec[pairs[:, 0]], ra[pairs[:, 1]], dec[pairs[:, 1]])
    return float(np.quantile(np.hypot(dx, dy), 0.99))


def _sides(problem: Problem) -> Array:
    assert problem.field is not None
    low, high = np.asarray(problem.field.low[0], float), np.asarray(problem.field.high[0], float)
    return np.asarray(high - low)


def _unit(ra: Array, dec: Array) -> Array:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], 1)


def _new_links(
    graph: ExposureGraph,
    problem: Problem,
    names: list[dict[str, Any]],
    field: NDArray[np.int64] | None,
    reach_deg: float | None,
) -> list[dict[str, Any]]:
    """Pairs of fields, or of exposures, that one more overlapping exposure would help most."""
    place, chord = None, np.inf
    if reach_deg is not None:
        place = _unit(problem.nodes["ra"].to_numpy(), problem.nodes["dec"].to_numpy())
        chord = 2.0 * float(np.sin(np.radians(min(reach_deg, 180.0)) / 2.0)) + 1e-9
    out = []
    for gain in graph.best_new_links(3, field, place=place, reach=chord):
        inside = graph.components() == gain.component
        ends: list[dict[str, Any]] = []
        centres: list[Array] = []
        for label in (gain.first, gain.second):
            if field is None:
                ends.append({"exposures": [names[label]], "n_exposures": 1})
                continue
            mine = np.flatnonzero((field == label) & inside)
            place = _unit(problem.nodes["ra"].to_numpy()[mine], problem.nodes["dec"].to_numpy()[mine]).sum(0)
            centres.append(place / np.linalg.norm(place))
            ends.append(
                {
                    "ra": float(np.degrees(np.arctan2(place[1], place[0])) % 360.0),
                    "dec": float(np.degrees(np.arctan2(place[2], np.hypot(place[0], place[1])))),
                    "n_exposures": len(mine),
                    "exposures": [names[e] for e in mine[:3]],
                }
            )
        out.append(
            {
                "component": gain.component,
                "band": problem.bands[problem.band[np.flatnonzero(inside)[0]]],
                "first": ends[0],
                "second": ends[1],
                "distance_deg": _distance(centres),
                "difference_err_mag": float(np.sqrt(gain.resistance)),
                "rms_removed_mag": gain.rms_removed,
            }
        )
    return out


def _distance(centres: list[Array]) -> float | None:
    """Angle between two directions, deg; None without them."""
    if len(centres) != 2:
        return None
    chord = float(np.linalg.norm(centres[0] - centres[1]))
    return float(np.degrees(2.0 * np.arcsin(min(0.5 * chord, 1.0))))


def _joins(
    problem: Problem, labels: NDArray[np.int32], size: NDArray[np.int64], names: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each component of a band but the largest, where it comes nearest to a larger one on the sky."""
    nodes = problem.nodes
    if "ra" not in nodes.columns or nodes["ra"].null_count() or nodes["dec"].null_count():
        return []
    unit = _unit(nodes["ra"].to_numpy(), nodes["dec"].to_numpy())
    out = []
    for b in range(len(problem.bands)):
        mine = np.flatnonzero(problem.band == b)
        parts = sorted(np.unique(labels[mine]), key=lambda c: (-size[c], c))
        for i, c in enumerate(parts[1 : LISTED + 1], 1):
            inside = np.flatnonzero(labels == c)
            larger = mine[np.isin(labels[mine], parts[:i])]
            chord, which = cKDTree(unit[larger]).query(unit[inside])
            k = int(np.argmin(chord))
            other = larger[which[k]]
            out.append(
                {
                    "band": problem.bands[b],
                    "component": int(c),
                    "to_component": int(labels[other]),
                    "first": names[inside[k]],
                    "second": names[other],
                    "distance_deg": float(np.degrees(2.0 * np.arcsin(min(0.5 * float(chord[k]), 1.0)))),
                }
            )
    return out
