"""PatchCore: the distance of each patch's features to a memory of normal patches.

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022, arXiv 2106.08265, section 3. It does not distil: it is a baseline, and can be
chosen by a retraining unless ``retrain.allow_baselines`` is off.

With M the memory, a coreset of the normals' patches, p a patch of an image:

    map = min over m in M of |p - m|, smoothed

Unless ``whitened`` is off, |W (p - m)| is in place of |p - m|, where W whitens the patches: with C
the covariance of the normals' patches and c the mean of its eigenvalues, W^T W = (C + 0.1 c I)^-1.
Directions in which normal patches vary much then count no more than others.

MVTec AD with a Wide-ResNet-50-2 teacher at 224×224, mean of the 15 categories, as the paper reports
it for a memory of 25 / 10 / 1 % of the patches: image AUROC 0.991 / 0.990 / 0.990, pixel AUROC
0.981 / 0.981 / 0.980.

As in the paper: the levels at strides 8 and 16, their 3×3 neighbourhoods averaged, the coarser one
resized to the finer, a greedy coreset on random projections, the distance to the nearest patch in
memory, Gaussian smoothing. Our own: W; the image score is the maximum of the map, where the paper
(equation 7) weighs the largest distance down where the memory is dense; images are not cropped, and
neighbourhoods are averaged per channel (as anomalib does), where the authors' code pools flattened
neighbourhoods to 1024 values whatever the teacher; the coreset is chosen from at most
``max_patches`` of the patches, drawn at random, so that memory does not grow with the number of
images; the map is enlarged with ``align_corners=True``; and the Gaussian is 4 pixels wide at 256.

Our own figures are in docs/results.md.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from stillwatch.detectors.base import Detector, Normals, Phase
from stillwatch.detectors.blocks.patch_memory import MAX_PATCHES, PatchMemory
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher


class PatchCoreSettings(Section):
    """The authors' coresets: 0.25, 0.1 and 0.01."""

    coreset: float = Field(0.01, gt=0, le=1, description="share of the patches that is remembered")
    max_patches: int = Field(
        MAX_PATCHES,
        ge=1,
        description="patches of the training normals that the coreset is chosen from, at most; "
        "drawn at random",
    )
    whitened: bool = Field(
        True, description="divide out how much and how jointly the features of normals vary"
    )


class PatchCore(Detector):
    """A memory bank of normal patches; nothing is trained."""

    name = "patchcore"
    version = 2
    Settings = PatchCoreSettings
    quick: ClassVar = {"coreset": 0.2}
    paper: ClassVar = {"coreset": 0.1, "max_patches": 10_000_000, "whitened": False}
    distils = False
    exportable = True

    settings: PatchCoreSettings
    memory: PatchMemory

    def __init__(self, teacher: Teacher, settings: PatchCoreSettings) -> None:
        super().__init__(teacher, settings)
        self.memory = PatchMemory(teacher, whitened=settings.whitened)

    def prepare(self, normals: Normals) -> None:
        """Store the coreset of all patches, or of ``max_patches`` of them."""
        self.memory.remember(
            normals, share=self.settings.coreset, max_patches=self.settings.max_patches
        )

    def phases(self) -> list[Phase]:
        """No phases: nothing is trained."""
        return []

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Distance to the nearest patch in memory, at stride 8, at least 0."""
        return [self.memory(self.teacher(images))]
