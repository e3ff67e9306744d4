"""``calib check``."""

from __future__ import annotations

import argparse
from typing import Any

from calib.cli import DONE
from calib.commands.options import config_of
from calib.describe import describe
from calib.tables.errors import count
from calib.tables.json_out import to_json
from calib.tables.measurements import read_measurements

SHOWN = 5
"""Entries shown of each list; all are in the JSON."""


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    config = config_of(args)
    measurements = read_measurements(
        args.inputs, columns=config.columns, exposures=args.exposures, match_radius=config.match_radius,
        preset=config.preset,
    )  # fmt: skip
    found = describe(measurements, config)
    print(to_json(found).rstrip() if args.json else text(found))
    return DONE


def text(found: dict[str, Any]) -> str:
    """Return a description as an observer wants it."""
    further = [
        *(_threads(found["threads"]) if found["components"] else []),
        *_modes(found),
        *_pointings(found),
        *(f"warning: {w}" for w in found["warnings"]),
    ]
    return "\n".join([*_contents(found), "", *_linked(found), *([""] if further else []), *further])


def _contents(found: dict[str, Any]) -> list[str]:
    rows, unused = found["rows"], found["unused"]
    lines = [
        f"rows         {rows['total']:,}, of which {rows['usable']:,} can be used"
        + "".join(f"; {n:,} {name}" for name, n in unused.items()),
        f"stars        {found['n_stars']:,}; median number of exposures of a star {found['visits']['median']:g}",
        "             "
        + ", ".join(f"{n:,} in {label}" for label, n in found["visits"]["histogram"].items())
        + " (a star in one exposure ties nothing)",
        *_told_apart(found["association"]),
        f"exposures    {found['n_exposures']:,}"
        + (f" in {found['n_fields']:,} fields" if found["n_fields"] else "")
        + (f", {found['nights']:,} nights" if found["nights"] else ""),
    ]
    widest = max((len(b["band"] or "(none)") for b in found["bands"]), default=0) + 2
    lines += [
        f"  band {b['band'] or '(none)':<{widest}}{b['n_exposures']:,} exposures, {b['n_stars']:,} stars, "
        f"{b['n_measurements']:,} measurements"
        for b in found["bands"]
    ]
    if found["magnitudes"]:
        m, e = found["magnitudes"], found["errors"]
        lines.append(
            f"magnitudes   {m['5%']:.2f} to {m['95%']:.2f} (5 to 95 %); reported errors {1000 * e['5%']:.1f} to "
            f"{1000 * e['95%']:.1f} mmag, median {1000 * e['median']:.1f}"
        )
    known = [name for name, n in found["conditions"].items() if n]
    lines.append(f"conditions   {', '.join(known) or 'none known; airmass, seeing and mjd would help'}")
    return lines


def _told_apart(association: dict[str, Any] | None) -> list[str]:
    if association is None:
        return []
    median, close = association["median_distance"], association["n_close"]
    away = "" if median != median else f"; rows lie {median:.2f} arcsec from theirs in the median"
    return [
        f"             told by position, within {association['match_radius']:g} arcsec{away}"
        + (f"; {close:,} lie within that of another" if close else "")
    ]


def _linked(found: dict[str, Any]) -> list[str]:
    components, isolated = found["components"], found["isolated"]
    if not components:
        return ["No two exposures share a star: nothing can be calibrated. Are star_id the same in all exposures?"]
    more = "s" if len(components) > 1 else ""
    lines = [f"{len(components)} component{more} of exposures linked by stars; each has a scale of its own"]
    names = [f"band {c['band']}" if c["band"] else "" for c in components[: 2 * SHOWN]]
    width = max(map(len, names), default=0) + 2
    lines += [
        f"  component {c['component']:<5}{name:<{width}}"
        f"{c['n_exposures']:,} exposures, {c['n_stars']:,} stars, {c['n_measurements']:,} measurements"
        for c, name in zip(components[: 2 * SHOWN], names, strict=True)
    ]
    if len(components) > 2 * SHOWN:
        lines.append(f"  and {len(components) - 2 * SHOWN:,} smaller ones")
    if isolated:
        lines.append(
            f"{count(len(isolated), 'exposure')} without a star in common with any other, hence without zero-point: "
            f"{_some(isolated)}"
        )
    for join in found["joins"][:SHOWN]:
        lines.append(
            f"  to tie component {join['component']} to {join['to_component']}: nearest are exposures "
            f"{_name(join['first'])} and {_name(join['second'])}, {join['distance_deg']:.2f} deg apart"
        )
    return lines


def _threads(threads: dict[str, Any]) -> list[str]:
    few = threads["few"]
    lines = []
    if threads["n_thin_exposures"]:
        thin = ", ".join(f"{_name(e)} ({e['n_tying_stars']})" for e in threads["thin_exposures"][:SHOWN])
        lines.append(f"{count(threads['n_thin_exposures'], 'exposure')} tied by {few} stars or fewer: {thin}")
    groups = [c for c in threads["cuts"] if c["n_exposures"] > 1]
    for cut in groups[:SHOWN]:
        lines.append(
            f"{cut['n_exposures']:,} exposures hang together on {cut['n_stars']} star{'s' * (cut['n_stars'] > 1)}: "
            f"{_some(cut['exposures'], cut['n_exposures'])}"
        )
    if threads["n_bridges"]:
        bridges = ", ".join(
            f"{_name(b['first'])} - {_name(b['second'])} ({b['n_shared']} stars)" for b in threads["bridges"][:SHOWN]
        )
        lines.append(f"{count(threads['n_bridges'], 'link')} without which the graph falls apart: {bridges}")
    if threads["n_articulation_exposures"]:
        lines.append(
            f"{count(threads['n_articulation_exposures'], 'exposure')} without which it falls apart: "
            f"{_some(threads['articulation_exposures'], threads['n_articulation_exposures'])}"
        )
    return lines or [
        f"nothing hangs by a thread: every exposure, and every group of them, is tied by more than {few} stars"
    ]


def _modes(found: dict[str, Any]) -> list[str]:
    lines = []
    for mode in found["modes"]:
        along = ""
        if mode["along"] and abs(mode["correlation"]) > 0.5:
            along = f", along {mode['along']} (correlation {mode['correlation']:+.2f})"
        lines.append(
            f"weakest large-scale mode of component {mode['component']}: adds {1000 * mode['rms_mag']:.2f} mmag rms, "
            f"{1000 * mode['peak_to_peak_mag']:.2f} from exposure {_name(mode['low'])} to {_name(mode['high'])}{along}"
        )
    if lines:
        lines.append(
            f"  (from reported errors and a floor of {1000 * found['floor_mag']:g} mmag; real errors are larger)"
        )
    return lines


def _pointings(found: dict[str, Any]) -> list[str]:
    lines = []
    for link in found["new_links"]:
        band = f", band {link['band']}" if link["band"] else ""
        apart = "" if link["distance_deg"] is None else f", {link['distance_deg']:.1f} deg apart"
        lines.append(
            f"  {_field(link['first'])} and {_field(link['second'])}{apart}{band}: "
            f"{1000 * link['rms_removed_mag']:.2f} mmag rms less in component {link['component']}"
        )
    if not lines:
        return []
    reach = found["new_links_reach_deg"]
    within = "" if reach is None else f"of fields within {reach:.2g} deg, "
    return [
        f"{within}one more exposure that overlaps both would help most (or exposures of both in one photometric night)",
        *lines,
    ]


def _field(end: dict[str, Any]) -> str:
    if "ra" not in end:
        return f"exposure {_name(end['exposures'][0])}"
    return f"field {end['ra']:.3f} {end['dec']:+.3f} ({count(end['n_exposures'], 'exposure')})"


def _name(node: dict[str, Any]) -> str:
    return " ".join(str(node[k]) for k in ("exposure_id", "band", "detector") if k in node)


def _some(names: list[dict[str, Any]], n: int | None = None) -> str:
    more = (len(names) if n is None else n) - SHOWN
    return ", ".join(_name(e) for e in names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
