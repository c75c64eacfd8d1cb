"""The inference benchmark's cells as one page."""

from collections.abc import Sequence

from benchmarks.cells import Cell
from benchmarks.tables import markdown, origin

_RUNTIMES = ("PyTorch", "ONNX Runtime", "OpenVINO", "INT8")


def render(cells: Sequence[Cell]) -> str:
    """The page in Markdown: latencies, then how near the exports come.

    Args:
        cells: as ``benchmarks.inference`` writes them, at least one.
    """
    command = "python -m benchmarks.inference --root ROOT --cells CELLS --out results/inference"
    versions = "; ".join(
        sorted({f"{name} {one}" for cell in cells for name, one in cell["versions"].items()})
    )
    return "\n".join(
        [
            "# Runtimes on the same images",
            "",
            f"{origin(command, cells)} {versions}. ROOT is the folder that holds the categories, "
            "CELLS are files that `benchmarks.accuracy` wrote.",
            "",
            "Milliseconds of one image, decoded before: the median, and in brackets the 95 % "
            "quantile. INT8 is ONNX Runtime's, with convolutions in 8-bit integers.",
            "",
            *_latencies(cells),
            "",
            "How far an export's scores and maps are from PyTorch's on all test images: the "
            "largest difference of any score and of any pixel, and the tolerance beyond which an "
            "export is refused. Verdicts are compared for every image farther than that from a "
            "threshold; all were equal, else there would be no export.",
            "",
            *_parities(cells),
            "",
            "What INT8 costs, on the test images and with the same runtime. Its thresholds are "
            "set anew on the calibration images; *changed* counts the test images whose verdict "
            "is another one.",
            "",
            *_quantizations(cells),
            "",
        ]
    )


def _setup(cell: Cell) -> list[str]:
    return [cell["category"], cell["detector"], f"{cell['teacher']}, {cell['image_size']}"]


_HEAD = ["category", "detector", "teacher, size"]


def _latencies(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        times = cell["milliseconds"]
        shown = [f"{times[name]['median']:.1f} ({times[name]['p95']:.1f})" for name in _RUNTIMES]
        rows.append([*_setup(cell), *shown])
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


def _quantizations(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        found = cell["quantization"]
        figures = [
            f"{found['float32'][name]:.3f} → {found['int8'][name]:.3f}"
            for name in ("image_auroc", "aupro", "recall")
        ]
        rows.append([*_setup(cell), *figures, f"{found['verdicts_changed']} of {found['images']}"])
    return markdown([*_HEAD, "image AUROC", "AUPRO", "recall", "changed"], rows)
