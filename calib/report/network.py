"""The exposure graph as a picture: components, links, and what hangs on few stars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.report import layout, marks, style
from calib.report.material import Material
from calib.report.style import Picture

Int64s = NDArray[np.int64]

MOST_NODES = 3000
"""Exposures beyond so many are thinned."""
MOST_BANDS = 4
"""Bands beyond so many are not drawn."""
MOST_ROWS = 2_000_000
"""Measurements beyond so many are thinned to a random choice of stars."""
MOST_VISITS = 2e8
"""Pairs of visits of one star that the links may be counted from."""
MOST_LINKS = 2500
"""Links of a panel beyond so many are thinned, the tree that holds it together kept."""
FEW_STARS = 10
"""Exposures, and groups of them, tied by at most so many stars hang by a thread."""


@dataclass(frozen=True)
class Network:
    """Links between the exposures drawn.

    Attributes
    ----------
    node
        (n,) rows of the zero-points.
    graph
        Their `graphs.ExposureGraph`.
    weak
        What hangs on few stars, or None where stars or exposures were thinned.
    every
        One star in so many was looked at.
    """

    node: Int64s
    graph: Any
    weak: Any
    every: int

    @property
    def thinned(self) -> bool:
        """Whether counts of stars are not those of the survey."""
        return self.weak is None


def network(material: Material) -> Network | None:
    """Links of the exposures, from the used measurements; None where there are none."""
    from graphs import MeasurementGraph

    used = material.zeropoints["n_measurements"].fill_null(0).to_numpy()
    isolated = material.zeropoints["flag"].fill_null("").str.contains("isolated", literal=True).to_numpy()
    nodes = np.flatnonzero((used > 0) | isolated)
    if material.rows is None or nodes.size < 2 or not material.keys:
        return None
    all_nodes = nodes.size
    if nodes.size > MOST_NODES:
        component = material.zeropoints["component"].to_numpy()
        bands = material.bands[:MOST_BANDS]
        of_band = [nodes[material.of_band(b)[nodes]] for b in bands]
        chosen = [n[_thin_nodes(component[n], MOST_NODES // len(bands))] for n in of_band if n.size]
        nodes = np.sort(np.concatenate(chosen))
    share = nodes.size / all_nodes
    visits = material.stars.select((pl.col("n_used").cast(pl.Float64) ** 2).sum()).collect().item() * share**2
    every = max(1, int(np.ceil(share * used.sum() / MOST_ROWS)), int(np.ceil(visits / MOST_VISITS)))
    keep = material.zeropoints[nodes].select(*material.keys, pl.Series("_i", np.arange(nodes.size, dtype=np.int32)))
    lazy = material.rows.filter(pl.col("used")).select("star_id", *material.keys)
    if every > 1:
        lazy = lazy.filter(pl.col("star_id").hash(11) % every == 0)
    frame = lazy.join(keep.lazy(), on=material.keys, how="inner").select("star_id", "_i").collect(engine="streaming")
    if not frame.height:
        return None
    # a star's measurements in two bands link nothing: a star is one in each band
    band = material.zeropoints["band"].rank("dense").cast(pl.Int32).to_numpy()[nodes] - 1
    star = frame["star_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    exposure = frame["_i"].to_numpy()
    code = star * (int(band.max()) + 1) + band[exposure]
    values, dense = np.unique(code, return_inverse=True)
    made = MeasurementGraph.from_codes(dense.astype(np.int32), exposure, values.size, nodes.size)
    graph = made.exposure_graph()
    weak = graph.weak_links(FEW_STARS) if every == 1 and nodes.size == all_nodes else None
    return Network(nodes.astype(np.int64), graph, weak, every)


def _thin_nodes(component: NDArray[Any], most: int) -> NDArray[np.int64]:
    """At most ``most`` exposures: whole components, the largest first; one in so many of a component too large."""
    _, label, counts = np.unique(component, return_inverse=True, return_counts=True)
    if counts.max() > most:
        whole = np.flatnonzero(label == counts.argmax())
        return whole[:: -(-whole.size // most)].astype(np.int64)
    order = np.lexsort((label, -counts[label]))
    return np.sort(order[:most]).astype(np.int64)


def picture(material: Material, net: Network | None) -> Picture | None:
    """Exposures and links, a panel for each band, at their places on the sky or drawn by a layout."""
    if net is None or net.graph.n_links == 0:
        return None
    band = material.zeropoints["band"].to_numpy()[net.node]
    drawn = np.zeros(material.zeropoints.height, bool)
    drawn[net.node] = True
    bands = marks.panel_bands(material, drawn)[:MOST_BANDS]
    ra, dec = material.column("ra")[net.node], material.column("dec")[net.node]
    on_sky = bool(np.isfinite(ra).all() and np.isfinite(dec).all())
    sky = marks.Sky(ra, dec) if on_sky else None
    if sky:
        figure, panels, wide = marks.sky_panels(sky, len(bands))
    else:
        wide = len(bands) > 1
        figure = style.new_figure(style.WIDE if wide else style.HALF, 3.9 if len(bands) < 3 else 3.0)
        panels = figure.subplots(1, len(bands), squeeze=False)[0].tolist()
    hanging = _hanging(net)
    for axes, name in zip(panels, bands, strict=True):
        at = np.flatnonzero(band == name)
        place = layout.spread(sky.x[at], sky.y[at], sky.extent) if sky else layout.drawn(net.graph, at)
        _panel(axes, material, net, at, place, hanging)
        axes.set_title(style.plain(material.band_name(name)))
        if not sky:
            axes.set_axis_off()
            axes.set_aspect("equal", adjustable="datalim")
    how = (
        "at their places on the sky, those of one pointing spread about it"
        if on_sky
        else "placed so that those with many common stars lie together"
    )
    return Picture(
        "The exposure graph",
        style.to_svg(figure, "graph", "Exposures as points, joined by lines where they share stars."),
        f"The exposure graph: {net.node.size} exposures and {net.graph.n_links} links.",
        f"Exposures {how}; a line joins two that share stars, darker the more they share; colours tell components. "
        + _weak_words(net)
        + _thin_words(material, net)
        + marks.left_out(material, bands),
        wide=wide,
    )


def _panel(axes: Any, material: Material, net: Network, at: Int64s, place: Any, hanging: Any) -> None:
    from matplotlib.collections import LineCollection

    where = np.full(net.node.size, -1)
    where[at] = np.arange(at.size)
    pairs, shared = net.graph.pairs(), net.graph.n_shared
    inside = np.flatnonzero((where[pairs[:, 0]] >= 0) & (where[pairs[:, 1]] >= 0))
    thin = _thin_links(net, inside)
    crossing = np.zeros(len(pairs), bool)
    for cut in () if net.weak is None else net.weak.cuts[:40]:
        side = np.zeros(net.node.size, bool)
        side[cut.exposures] = True
        crossing |= side[pairs[:, 0]] != side[pairs[:, 1]]
    for links, color in ((thin[~crossing[thin]], style.MUTED), (inside[crossing[inside]][:MOST_LINKS], style.WARN)):
        if links.size:
            strength = np.log1p(shared[links]) / max(np.log1p(shared[inside].max()), 1e-9)
            lines = place[where[pairs[links]]]
            order = np.argsort(strength, kind="stable")
            alpha = np.clip(0.1 + 0.5 * strength[order] ** 2, 0, 1) if color == style.MUTED else 0.9
            made = LineCollection(
                lines[order], colors=color, alpha=alpha, linewidths=0.5 if color == style.MUTED else 1.1,
                rasterized=links.size > style.MANY // 3,
            )  # fmt: skip
            axes.add_collection(made)
    component = material.zeropoints["component"].to_numpy()[net.node[at]]
    names, counts = np.unique(component, return_counts=True)
    rank = dict(zip(names[np.argsort(-counts, kind="stable")].tolist(), range(names.size), strict=True))
    order = np.array([rank[c] for c in component.tolist()])
    size = float(np.clip(40.0 / np.sqrt(at.size), 1.4, 5.0))
    many = at.size > style.MANY
    for k in range(min(names.size, len(style.SERIES))):
        # beyond the palette, components are grey
        here = order == k if k + 1 < len(style.SERIES) else order >= k
        color = style.SERIES[k] if k + 1 < len(style.SERIES) else style.MUTED
        axes.plot(*place[here].T, marker="o", ls="none", ms=size, color=color, mew=0, rasterized=many)
    weak = hanging[at]
    if weak.any():
        axes.plot(*place[weak].T, marker="o", ls="none", ms=size + 3.5, mfc="none", mec=style.WARN, mew=1.1)
    axes.margins(0.06)
    axes.autoscale_view()


def _hanging(net: Network) -> NDArray[np.bool_]:
    """Exposures tied by few stars, or on the small side of a cut that few stars cross."""
    hanging = np.zeros(net.node.size, bool)
    if net.weak is not None:
        hanging[net.weak.exposures] = True
        for cut in net.weak.cuts:
            hanging[cut.exposures] = True
    return hanging


def _thin_links(net: Network, inside: Int64s) -> Int64s:
    """At most `MOST_LINKS` links: the strongest spanning tree, and an even choice of the others."""
    if inside.size <= MOST_LINKS:
        return inside
    tree = {(int(a), int(b)) if a < b else (int(b), int(a)) for a, b in np.asarray(net.graph.spanning_tree()).tolist()}
    pairs = net.graph.pairs()[inside]
    holds = np.array([(int(a), int(b)) in tree for a, b in pairs.tolist()])
    others = inside[~holds]
    step = -(-others.size // max(1, MOST_LINKS - int(holds.sum())))
    return np.concatenate([inside[holds], others[::step]])


def _weak_words(net: Network) -> str:
    if net.weak is None:
        return ""
    if not net.weak.exposures.size and not net.weak.cuts:
        return f"No exposure and no group of exposures hangs on {FEW_STARS} stars or fewer."
    return f"Orange rings and lines hang by a thread: at most {FEW_STARS} stars tie them to the rest."


def _thin_words(material: Material, net: Network) -> str:
    said = ""
    if net.weak is None and net.node.size < material.zeropoints.height:
        said += f" Of {material.zeropoints.height} exposures {net.node.size} are drawn."
    return said + (f" Links are counted from one star in {net.every}." if net.every > 1 else "")


def weak_rows(material: Material, net: Network | None, most: int = 12) -> list[list[str]]:
    """Groups of exposures that few stars tie to their component: stars, exposures, their identifiers."""
    if net is None or net.weak is None:
        return []
    ids = material.zeropoints["exposure_id"].cast(pl.String).to_list()
    bands = material.zeropoints["band"].to_list()
    rows = []
    for cut in net.weak.cuts[:most]:
        names = [ids[int(net.node[e])] for e in cut.exposures[:6]]
        more = f" and {cut.exposures.size - 6} more" if cut.exposures.size > 6 else ""
        band = bands[int(net.node[cut.exposures[0]])]
        rows.append([str(cut.n_stars), f"{cut.exposures.size}", band, ", ".join(names) + more])
    return rows
