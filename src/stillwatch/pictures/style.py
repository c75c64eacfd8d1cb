"""The style of all pictures: colours, axes and headings; and functions that save a figure.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from stillwatch.files import atomic_file

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, MUTED, HAIRLINE = "#222222", "#6b6b6b", "#dddddd"


@dataclass(frozen=True)
class Theme:
    """The colours of a picture's ground and words."""

    ground: str
    ink: str
    muted: str
    alarm: str
    blank: int
    """Grey level of a place without a picture, 0 to 255."""


LIGHT = Theme("white", INK, MUTED, VERMILLION, 245)
DARK = Theme("#0d1117", "#e6edf3", "#9aa4af", "#ff9d5c", 32)
"""For pages with light words on a dark ground."""


def save_figure(figure: Figure, path: Path, *, dpi: int = 100) -> None:
    """Write a figure as PNG, atomically and without a date or version in it."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """A figure as an SVG file; text is drawn as outlines, so that no font is needed."""
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def new_figure(width: float, height: float, ground: str = LIGHT.ground) -> Figure:
    """Return an empty figure of a size in inches, at 100 dpi."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor=ground)
    FigureCanvasAgg(figure)
    return figure


def heading(title: str, synthetic: bool, width: float) -> str:
    """Return the title, wrapped to a width in inches and marked where anomalies are synthetic."""
    lines = wrap(title, int(width * 11))
    return "\n".join([*lines, "synthetic anomalies"] if synthetic else lines)


def plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Make a log axis from ``low`` to ``high`` show ordinary numbers, and enough of them."""
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def clean(axes: Axes) -> Axes:
    """Remove the frame and other ink without information, and return the axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return axes
