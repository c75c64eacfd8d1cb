"""The accuracy benchmark's cells as one page."""

from collections.abc import Callable, Sequence

from benchmarks.cells import Cell, changed_settings
from benchmarks.published_figures import PUBLISHED
from benchmarks.tables import markdown, mean_and_spread, origin
from stillwatch.detectors import detector_class

_COLUMNS: dict[str, tuple[Callable[[Cell], float | None], str]] = {
    "image AUROC": (lambda cell: cell["report"]["image_auroc"], ".3f"),
    "against calibration": (lambda cell: cell.get("against_calibration_auroc"), ".3f"),
    "in the same light": (lambda cell: cell.get("same_light_auroc"), ".3f"),
    "image AP": (lambda cell: cell["report"]["image_ap"], ".3f"),
    "pixel AUROC": (lambda cell: cell["report"]["pixel_auroc"], ".3f"),
    "AUPRO": (lambda cell: cell["report"]["aupro"], ".3f"),
    "recall": (lambda cell: cell["report"]["recall"], ".3f"),
    "ms/image": (lambda cell: cell["report"]["ms_per_image"], ".0f"),
    "training s": (lambda cell: cell["report"]["train_seconds"], ".0f"),
    "MB": (lambda cell: cell["megabytes"], ".0f"),
    "paper's image score, AUROC": (lambda cell: cell["published_score_auroc"], ".3f"),
}


def render(cells: Sequence[Cell]) -> str:
    """The page in Markdown: a table per category, then the published figures.

    Args:
        cells: as ``benchmarks.accuracy`` writes them, at least one.
    """
    lines = [
        "# Methods on the same images",
        "",
        "ROOT is the folder that holds a category; teacher, size and photographs of a row are "
        "teacher.name, images.size and training.photographs in the file that --params names.",
        "",
        "Means over the seeds ± half the distance from the lowest to the highest; pixel figures at "
        "the evaluation size. The profile says what the settings are: laptop is smaller and "
        "shorter than published; what stands beside it differs from it. Recall is that of the "
        "calibrated threshold. Two more image AUROCs say how much of the first is the light: that "
        "of the same anomalies against the calibration normals, which are lit like the training, "
        "and that of the test images after each was brought to the training's brightness. The last "
        "column is the image score that a paper defines for itself; these three decide nothing.",
        "",
    ]
    for category in sorted({cell["category"] for cell in cells}):
        of_category = [cell for cell in cells if cell["category"] == category]
        lines += [f"## {category}", "", _origin(of_category), "", *_table(of_category), ""]
    lines += ["## Published figures", "", *_published({cell["detector"] for cell in cells})]
    return "\n".join(lines) + "\n"


def _origin(cells: Sequence[Cell]) -> str:
    of = {name: sorted({str(cell[name]) for cell in cells}) for name in ("detector", "seed")}
    command = (
        f"python -m benchmarks.accuracy --root ROOT --categories {cells[0]['category']} "
        f"--detectors {' '.join(of['detector'])} --seeds {' '.join(of['seed'])} --out results"
    )
    return origin(command, cells)


def _table(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for setup in sorted({_setup(cell) for cell in cells}):
        runs = [cell for cell in cells if _setup(cell) == setup]
        figures = [
            mean_and_spread([of(run) for run in runs], form) for of, form in _COLUMNS.values()
        ]
        rows.append([*setup, str(len(runs)), *figures])
    return markdown(["detector", "teacher, size", "profile", "seeds", *_COLUMNS], rows)


def _setup(cell: Cell) -> tuple[str, str, str]:
    """What is the same for all seeds of a row."""
    settings = cell["settings"]
    seen = f"{settings['teacher']['name']}, {settings['images']['size']}"
    if detector_class(cell["detector"]).uses_photographs:
        seen += ", photographs" if settings["photographs"] else ", no photographs"
    changed = changed_settings(cell["detector"], settings["profile"], settings["detector"])
    return cell["detector"], seen, ", ".join([settings["profile"], *changed])


def _published(detectors: set[str]) -> list[str]:
    rows = [
        [
            name,
            one.image_auroc or "–",
            one.pixel_auroc or "–",
            one.aupro or "–",
            " / ".join(figure or "–" for figure in one.screw) if any(one.screw) else "–",
            one.teacher,
            one.note,
        ]
        for name, one in PUBLISHED.items()
        if name in detectors
    ]
    figures = ["image AUROC", "pixel AUROC", "AUPRO"]
    head = ["detector", *figures, "the same of screw alone", "teacher, size", "note"]
    intro = (
        "MVTec AD, mean of its 15 categories, and screw alone. Not comparable with the tables "
        "above, which have other teachers, sizes and lengths of training."
    )
    return [intro, "", *markdown(head, rows)]
