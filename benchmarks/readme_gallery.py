"""Draw the README's gallery: four test images of the sample category ``plate``, in light and dark.

``stillwatch demo`` trains the detector; this command shows what its champion says about a defect
that it rejects, one that goes to review, one that it misses, and a good part. The images are drawn
anew by the sample set's generator.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch import pictures
from stillwatch.bundle import Bundle
from stillwatch.evaluation.evaluation import NORMAL, TestImages, inspect_test
from stillwatch.images.decode import scale_image
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.pictures.style import DARK, LIGHT
from stillwatch.sample.image_set import ANOMALIES_PER_TYPE, SUBJECTS, TEST_NORMALS, draw_image
from stillwatch.settings import load_settings
from stillwatch.tasks.evaluation.pictures import gallery_items
from stillwatch.tasks.registry.versions import CHAMPION, fetch_bundle, model_name, resolve_version
from stillwatch.tasks.tracking.client import open_tracking

CATEGORY = "plate"


def main(arguments: Sequence[str]) -> None:
    """Inspect the test images, choose four, and draw them twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--params", type=Path, default=Path("params.yaml"), help="settings of the demo")
    add("--out", type=Path, required=True, help="folder of the two pictures")
    given = parser.parse_args(arguments)
    tracking = open_tracking(load_settings(given.params))
    champion = f"models:/{model_name(CATEGORY)}@{CHAMPION}"
    bundle = fetch_bundle(tracking, *resolve_version(tracking, champion))
    test = test_images(bundle)
    inspector = Inspector(bundle, load_scorer(bundle, "cpu"))
    items = gallery_items(bundle.info, test, inspect_test(inspector, test, size=256))
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        figure = pictures.gallery(
            items,
            pictures.one_of_each(items),
            reject=bundle.info.calibration.reject,
            title=f"{CATEGORY} · {bundle.info.detector.name}",
            theme=theme,
        )
        # Twice the 800 pixels at which the README shows it, for dense screens.
        pictures.save_figure(figure, given.out / f"gallery-{name}.png", dpi=200)


def test_images(bundle: Bundle) -> TestImages:
    """The test images of the sample set, scaled for a bundle."""
    kinds = [(NORMAL, TEST_NORMALS)]
    kinds += [(defect, ANOMALIES_PER_TYPE) for defect in SUBJECTS[CATEGORY].defect_types]
    names = [(kind, index) for kind, images in kinds for index in range(images)]
    drawn = [draw_image(CATEGORY, "test", kind, index) for kind, index in names]
    return TestImages(
        paths=tuple(f"test/{kind}/{index:03}.png" for kind, index in names),
        images=[scale_image(_rgb(one.pixels), bundle.info.geometry) for one in drawn],
        defect_types=tuple(kind for kind, _ in names),
        masks=[one.mask for one in drawn],
    )


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey or colour as colour, uint8 (H, W, 3)."""
    channels = np.atleast_3d(pixels)
    return np.ascontiguousarray(np.broadcast_to(channels, (*channels.shape[:2], 3)))


if __name__ == "__main__":
    main(sys.argv[1:])
