"""Draw a detector's results with matplotlib: a gallery, histograms and curves.

Each picture is a ``Figure`` of its own, without pyplot and its global state, so that several
threads can draw.
"""

from stillwatch.pictures.charts import (
    loss_curve,
    pro_curve,
    roc_curve,
    score_histogram,
)
from stillwatch.pictures.drift import drift_chart
from stillwatch.pictures.gallery import (
    GalleryItem,
    Thumbnails,
    choose_items,
    draw_strip,
    draw_thumbnails,
    gallery,
    one_of_each,
)
from stillwatch.pictures.style import save_figure, svg

__all__ = [
    "GalleryItem",
    "Thumbnails",
    "choose_items",
    "draw_strip",
    "draw_thumbnails",
    "drift_chart",
    "gallery",
    "loss_curve",
    "one_of_each",
    "pro_curve",
    "roc_curve",
    "save_figure",
    "score_histogram",
    "svg",
]
