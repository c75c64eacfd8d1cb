"""The inference benchmark's cells as one page."""

from collections.abc import Sequence

from benchmarks.cells import Cell
from benchmarks.tables import markdown, origin

_RUNTIMES = ("PyTorch", "ONNX Runtime", "OpenVINO")


def render(cells: Sequence[Cell]) -> str:
    """The page in Markdown: latencies, then how near the exports come.

    Args:
        cells: as ``benchmarks.inference`` writes them, at least one.
    """
    command = "python -m benchmarks.inference CATEGORIES --detectors DETECTORS"
    versions = "; ".join(
        sorted({f"{name} {one}" for cell in cells for name, one in cell["versions"].items()})
    )
    return "\n".join(
        [
            "# Runtimes on the same images",
            "",
            f"{origin(command, cells)} {versions}.",
            "",
            "Inspection of one decoded image in milliseconds: the median, and the 95 % quantile in "
            "brackets.",
            "",
            *_latencies(cells),
            "",
            "Milliseconds per megapixel of the scaled image, the median.",
            "",
            *_per_megapixel(cells),
            "",
            "Differences between an export and PyTorch on all test images: the largest difference "
            "of a score, and of a pixel of a map. An export is refused if a difference is larger "
            "than the tolerance, or if a verdict differs. Verdicts are compared for every image "
            "whose score is farther than the tolerance from a threshold.",
            "",
            *_parities(cells),
            "",
        ]
    )


def _setup(cell: Cell) -> list[str]:
    return [cell["category"], cell["detector"], f"{cell['teacher']}, {cell['geometry']}"]


_HEAD = ["category", "detector", "teacher, size"]


def _latencies(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        times = cell["milliseconds"]
        shown = [f"{times[name]['median']:.1f} ({times[name]['p95']:.1f})" for name in _RUNTIMES]
        rows.append([*_setup(cell), *shown])
    return markdown([*_HEAD, *_RUNTIMES], rows)


def _per_megapixel(cells: Sequence[Cell]) -> list[str]:
    rows = [
        [
            *_setup(cell),
            *(f"{cell['milliseconds'][name]['per_megapixel']:.0f}" for name in _RUNTIMES),
        ]
        for cell in cells
    ]
    return markdown([*_HEAD, *_RUNTIMES], rows)


def _parities(cells: Sequence[Cell]) -> list[str]:
    rows = [
        [
            *_setup(cell),
            runtime,
            f"{found['score_difference']:.1e}",
            f"{found['map_difference']:.1e}",
            f"{found['tolerance']:.1e}",
            f"{found['verdicts_compared']} of {found['images']}",
        ]
        for cell in cells
        for runtime, found in cell["parity"].items()
    ]
    return markdown([*_HEAD, "runtime", "scores", "maps", "tolerance", "verdicts compared"], rows)
