r"""A category of large images with small defects, to be measured by ``benchmarks.large_images``.

Images of 2048 × 2048 pixels with dents and scratches of 6 to 20 pixels: squashed to 256 × 256,
hardly anything is left of them.

    .venv/bin/python -m benchmarks.small_defects made/sheet
    .venv/bin/python -m benchmarks.large_images made/sheet --scales squashed 1.0 \
        --out benchmarks/results/large_images --page docs/small-defects.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sheets import make_small_defects
from stillwatch.errors import StillwatchError


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the category."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("category", type=Path, help="folder of the category; is made")
    parser.add_argument("--side", type=int, default=2048, help="of the images in pixels")
    parser.add_argument("--train", type=int, default=60, help="number of train normals")
    parser.add_argument("--test", type=int, default=20, help="of test normals, and of anomalies")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        make_small_defects(
            given.category,
            side=given.side,
            train_normals=given.train,
            test_normals=given.test,
            anomalies=given.test,
            seed=given.seed,
        )
    except StillwatchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
