"""A copy of a category whose images are smoothed: a control for what fine grain does to a method.

A method that rebuilds images errs on grain that it cannot rebuild, on good parts as on defective
ones. Where it does better on the copy, grain was what kept it from seeing the defects. The copy is
called ``<category>_smoothed``; ``benchmarks.accuracy`` takes it like any other category.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFilter

from stillwatch.images.layout import IMAGE_SUFFIXES


def smooth_category(source: Path, target: Path, sigma: float) -> None:
    """Copy a category, its images smoothed with a Gaussian, its masks as they are.

    Args:
        source: the category's folder.
        target: the copy's folder; must not be there.
        sigma: standard deviation in pixels of the image files.
    """
    shutil.copytree(source, target)
    for file in sorted(target.rglob("*")):
        below = file.relative_to(target)
        if file.suffix.lower() in IMAGE_SUFFIXES and below.parts[0] != "ground_truth":
            with Image.open(file) as image:
                image.load()
                image.filter(ImageFilter.GaussianBlur(sigma)).save(file)


def main(arguments: Sequence[str]) -> None:
    """Read the command line and make the copy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="image set in MVTec layout")
    parser.add_argument("--category", required=True)
    parser.add_argument("--sigma", type=float, required=True, help="in pixels of the image files")
    parser.add_argument("--out", type=Path, required=True, help="image set that gets the copy")
    given = parser.parse_args(arguments)
    source = given.root / given.category
    target = given.out / f"{given.category}_smoothed"
    if not source.is_dir():
        parser.error(f"{source}: no such folder. Correct --root or --category.")
    if target.exists():
        parser.error(f"{target} is there already. Remove it, or name another --out.")
    smooth_category(source, target, given.sigma)
    print(f"{target}: smoothed by {given.sigma:g} pixels")


if __name__ == "__main__":
    main(sys.argv[1:])
