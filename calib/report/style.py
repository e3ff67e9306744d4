"""How figures look: one palette that the page turns dark, and matplotlib figures as clean inline SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

INK, MUTED, RULE, PAPER = "#1f2a35", "#66727e", "#dfe3e5", "#fffefc"
WARN = "#c96a1f"
SERIES = ("#2a6b9c", "#43885a", "#8059a6", "#b0434e", "#2f8f95", "#94802a", "#5d6bb8", "#7a6a5d")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--card", WARN: "--warn"} | {
    color: f"--s{i}" for i, color in enumerate(SERIES)
}
"""Colours of the light page, and the CSS variables that take their place in the SVG."""

HALF, WIDE = 4.7, 9.5
"""Widths of figures, inch: a column of the page, and the page."""
MANY = 1200
"""More marks than this are drawn as an image inside the SVG."""
DPI = 170

_RC: dict[str, Any] = {
    "font.size": 8.0, "font.family": "DejaVu Sans", "text.color": INK, "svg.fonttype": "none", "svg.hashsalt": "calib",
    "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.facecolor": "none", "axes.grid": True, "axes.axisbelow": True,
    "axes.titlesize": 8.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.labelsize": 8.0, "axes.formatter.useoffset": False, "axes.titlepad": 5.0,
    "grid.color": RULE, "grid.linewidth": 0.6,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.minor.size": 0.0, "ytick.minor.size": 0.0,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "legend.frameon": False, "legend.fontsize": 7.5, "legend.handlelength": 1.6, "legend.borderaxespad": 0.2,
    "figure.facecolor": "none", "savefig.facecolor": "none", "lines.linewidth": 1.3, "image.aspect": "auto",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes
    ----------
    svg
        Inline SVG.
    alt
        What it shows, for who cannot see it.
    caption
        What to look for.
    wide
        Whether it takes the whole width of the page.
    title
        Its heading.
    """

    title: str
    svg: str
    alt: str
    caption: str
    wide: bool = False


@contextmanager
def theme() -> Iterator[None]:
    """Matplotlib's defaults with the page's looks, whatever the user's matplotlibrc says; restored afterwards."""
    import matplotlib.style

    with warnings.catch_warnings(), matplotlib.style.context(["default", _RC]):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message=".*missing from font")
        yield


def new_figure(width: float, height: float) -> Any:
    """Figure of ``width`` x ``height`` inch with a canvas of its own: pyplot has no part in it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def plain(text: object) -> str:
    """Text as matplotlib draws it letter by letter: no mathematics, no control characters, not too long."""
    out = "".join(c if c.isprintable() else " " for c in str(text)).replace("\\", "\\\\").replace("$", r"\$")
    return out if len(out) <= 32 else out[:31] + "…"


def colormap(kind: str) -> Any:
    """Colours that read on white and on black: ``diverging`` about a grey middle, or ``rising``."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = {
        "diverging": ["#1f6fb4", "#6f9fc4", "#a9a9a6", "#d39a5c", "#c65a11"],
        "rising": ["#7fb8b0", "#4b97a3", "#3f7397", "#6a4c93", "#a83a6b", "#d9622b"],
    }
    return LinearSegmentedColormap.from_list(kind, stops[kind])


def log_axis(axis: Any) -> None:
    """Plain numbers on a logarithmic axis that has its scale and limits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = high / max(low, 1e-300)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 300 else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def to_svg(figure: Any, name: str, alt: str) -> str:
    """Inline SVG: no header, ids of its own, the palette as CSS variables, text as text in the page's font."""
    out = io.StringIO()
    # not savefig, which draws once more to lay out what drawing lays out anyway
    figure.canvas.print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{_attribute(alt)}" viewBox="{box[1]}">', svg, count=1)
    svg = svg.replace("xlink:href=", "href=").replace(' id="', f' id="{name}-')
    svg = svg.replace("url(#", f"url(#{name}-").replace(' href="#', f' href="#{name}-')
    svg = re.sub(r"font: (?:(bold|\d+) )?([\d.]+)px [^;\"]*", _font, svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' (d|x|y|transform|width|height)="([^"]*)"', _shorter, svg)
    svg = re.sub(r"#[0-9a-f]{6}", lambda m: f"var({VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _font(match: re.Match[str]) -> str:
    weight = f"; font-weight: {match[1]}" if match[1] else ""
    return f"font-size: {match[2]}px{weight}"


def _shorter(match: re.Match[str]) -> str:
    return f' {match[1]}="' + re.sub(r"(\d\.\d\d)\d+", r"\1", match[2]) + '"'
