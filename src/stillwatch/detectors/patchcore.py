"""PatchCore: the distance of each patch's features to a memory of normal patches.

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022, arXiv 2106.08265, section 3. It does not distil: it is a
baseline, and wins a retraining unless ``retrain.allow_baselines`` is off.

With M the memory, a coreset of the normals' patches, p a patch of an image:

    map = min over m in M of |p - m|, smoothed

MVTec AD with a Wide-ResNet-50-2 teacher at 224×224, mean of the 15 categories, as the paper reports
it for a memory of 25 / 10 / 1 % of the patches: image AUROC 0.991 / 0.990 / 0.990, pixel AUROC
0.981 / 0.981 / 0.980.

As in the paper: the levels at strides 8 and 16, their 3×3 neighbourhoods averaged, the coarser one
resized to the finer, a greedy coreset on random projections, the distance to the nearest patch in
memory, Gaussian smoothing. The verdict uses the maximum of the map; the paper's own image score,
which weighs the largest distance down where the memory is dense, is ``published_scores``. Our own:
images are not cropped, and neighbourhoods are averaged per channel (as anomalib does), where the
authors' code pools flattened neighbourhoods to 1024 values whatever the teacher; the coreset is
chosen from at most ``max_patches`` of the patches, drawn at random, so that memory does not grow
with the number of images; and the Gaussian is 4 pixels wide at 256.

Measured (docs/results.md): profile ``laptop``, 256 pixels, means over the seeds.

                image AUROC   AUPRO
    cloth       0.905         0.763
    plate       0.931         0.934
    screw       0.904         0.896
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from stillwatch.combination import Combination, Level, LevelMaps
from stillwatch.detectors.base import Detector, Normals, Phase
from stillwatch.detectors.blocks.coreset import greedy_coreset
from stillwatch.detectors.blocks.maps import joined_neighbourhoods
from stillwatch.detectors.blocks.parts import parts
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher

_LEVELS = slice(1, 3)
_STRIDE = 8
"""Of the finer level, in pixels."""
_PROJECTED = 128
_QUERIES = 4096


class PatchCoreSettings(Section):
    """The authors' coresets: 0.25, 0.1 and 0.01."""

    coreset: float = Field(0.01, gt=0, le=1, description="share of the patches that is remembered")
    max_patches: int = Field(
        250_000,
        ge=1,
        description="patches of the training normals that the coreset is chosen from, at most; "
        "drawn at random",
    )
    neighbours: int = Field(
        9, ge=2, description="of the memory's patch, in the paper's own image score"
    )


class PatchCore(Detector):
    """A memory bank of normal patches; nothing is trained."""

    name = "patchcore"
    version = 1
    Settings = PatchCoreSettings
    quick: ClassVar = {"coreset": 0.2}
    paper: ClassVar = {"coreset": 0.1, "max_patches": 10_000_000}
    distils = False
    exportable = True

    settings: PatchCoreSettings
    memory: Tensor

    def __init__(self, teacher: Teacher, settings: PatchCoreSettings) -> None:
        super().__init__(teacher, settings)
        self.register_buffer("memory", torch.zeros(1, sum(teacher.channels[_LEVELS])))

    def prepare(self, normals: Normals) -> None:
        """Store the coreset of all patches, or of ``max_patches`` of them."""
        patches = self._drawn_patches(normals)
        size = max(1, math.ceil(self.settings.coreset * len(patches)))
        self.memory = patches[greedy_coreset(_projected(patches), size)]

    def phases(self) -> list[Phase]:
        """No phases: nothing is trained."""
        return []

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Distance to the nearest patch in memory, at stride 8, at least 0."""
        return [self._nearest(_patches(self.teacher(images)), 1)[0][..., 0]]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """The one level, smoothed."""
        return Combination(levels=(Level(),), sigma=sigma)

    def published_scores(self, images: Tensor) -> Tensor:
        """The paper's image score (equation 7): the largest distance, re-weighted.

        s = (1 - exp|p - m| / sum over n in N_b(m) of exp|p - n|) |p - m|, with p the patch that is
        farthest from memory, m its nearest patch there, and N_b(m) the b patches nearest to m.

        Args:
            images: float32 (B, 3, H, W) in [0, 1].

        Returns:
            float32 (B,), at least 0.
        """
        patches = _patches(self.teacher(images)).flatten(1, 2)
        distances, nearest = self._nearest(patches, 1)
        worst = distances[..., 0].argmax(dim=1)
        rows = torch.arange(len(images), device=worst.device)
        patch, match = patches[rows, worst], nearest[rows, worst, 0]
        around = self._nearest(self.memory[match], min(self.settings.neighbours, len(self.memory)))
        to_neighbours = (patch[:, None] - self.memory[around[1]]).norm(dim=-1)
        share = torch.softmax(to_neighbours, dim=1)[:, 0]
        return (1 - share) * distances[rows, worst, 0]

    def _drawn_patches(self, normals: Normals) -> Tensor:
        drawn: list[Tensor] = []
        seen = 0
        for batch in normals:
            maps = _patches(batch.features)
            total = len(normals) * maps.shape[1] * maps.shape[2]
            most = min(total, self.settings.max_patches)
            patches = maps[batch.covered(_STRIDE)]
            # Of every batch its share, so that all normals are represented.
            count = most * (seen + len(patches)) // total - most * seen // total
            seen += len(patches)
            if count < len(patches):
                patches = patches[torch.randperm(len(patches))[:count].to(patches.device)]
            drawn.append(patches)
        return torch.cat(drawn)

    def _nearest(self, patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Distances to the ``count`` nearest patches in memory, and their rows: (..., count)."""
        found = []
        for block in parts(patches.flatten(0, -2), _QUERIES):
            rows = torch.cdist(block, self.memory).topk(count, largest=False).indices
            # Computed again: cdist uses products, which leave few digits of a small distance.
            found.append(((block[:, None] - self.memory[rows]).norm(dim=-1), rows))
        distances, rows = (torch.cat(blocks) for blocks in zip(*found, strict=True))
        shape = (*patches.shape[:-1], count)
        return distances.view(shape), rows.view(shape)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict[f"{prefix}memory"]
        self.memory = self.memory.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _patches(features: list[Tensor]) -> Tensor:
    """Averaged neighbourhoods of the levels, joined: (B, h, w, C) at the finer level's size."""
    return joined_neighbourhoods(*features[_LEVELS]).permute(0, 2, 3, 1)


def _projected(patches: Tensor) -> Tensor:
    """A random projection to fewer dimensions, which nearly keeps distances."""
    if patches.shape[1] <= _PROJECTED:
        return patches
    matrix = torch.randn(patches.shape[1], _PROJECTED) / math.sqrt(_PROJECTED)
    return patches @ matrix.to(patches)
