"""Train a patch descriptor network without labels, once for all categories.

Bergmann, Fauser, Sattlegger, Steger, "Uninformed Students", CVPR 2020, arXiv 1911.02357, section
3.1. With T the patch network, D a linear layer, P a pretrained network, p a patch, p+ the same one
a little shifted and noisy, p- another image's, and c the correlation of descriptor dimensions over
a batch,

    L = w_k L_k + w_m L_m + w_c L_c
    L_k = |D(T(p)) - P(p)|^2
    L_m = max(0, 1 + |T(p) - T(p+)|^2 - min(|T(p) - T(p-)|^2, |T(p+) - T(p-)|^2))
    L_c = mean over i != j of c_ij^2

The paper prints neither the margin nor the sign of a correlation in L_c: 1 and the square are our
own. So is the mean, where the paper has a sum: over the 128 · 127 pairs of dimensions it outweighs
L_k thousands of times, and nothing else is learnt. Our own, too, are the standardisation of P by
its mean and deviation on the first batches, the pretrained descriptor of another teacher than
ResNet-18 (its level of stride 32, averaged over a patch) and the size at which that teacher sees
patches, 64 pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.blocks.augmentations import (
    greyed,
    noisy,
    random_windows,
    zoomed_windows,
)
from stillwatch.detectors.blocks.patch_networks import DESCRIPTOR, PatchNetwork, PatchSize
from stillwatch.detectors.blocks.standardisation import Standardisation

MARGIN = 1.0
"""Margin of the triplet loss."""
_NOISE = 0.1
_GREY_SHARE = 0.1
_ZOOM = (4.0, 16.0)
"""Lowest and highest side, in patches, to which a photograph is resized."""
_PRETRAINED_SIDE = 64


class PatchTeacher(nn.Module):
    """A patch network and the layer that decodes its descriptors during training.

    Its first weights depend on the patch size alone.

    Args:
        patch_size: in pixels.
        decoded: values of the pretrained descriptor; 0 where there is none.
    """

    def __init__(self, patch_size: PatchSize, decoded: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(patch_size)
            self.network = PatchNetwork(patch_size)
            self.decoder = nn.Linear(DESCRIPTOR, decoded) if decoded else nn.Identity()
        self.pretrained = Standardisation(decoded)

    def forward(self, patches: Tensor) -> Tensor:
        """Descriptors (B, 128) of patches (B, 3, p, p)."""
        return self.network.forward(patches).flatten(1)


def knowledge_loss(decoded: Tensor, pretrained: Tensor) -> Tensor:
    """L_k: (B, C) twice -> scalar, the batch mean of squared distances."""
    return (decoded - pretrained).square().sum(dim=1).mean()


def metric_loss(anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """L_m: (B, C) thrice -> scalar, the batch mean."""
    near = (anchors - positives).square().sum(dim=1)
    far = torch.minimum(
        (anchors - negatives).square().sum(dim=1), (positives - negatives).square().sum(dim=1)
    )
    return (MARGIN + near - far).clamp_min(0).mean()


def compactness_loss(descriptors: Tensor) -> Tensor:
    """L_c: (B, C) -> scalar in [0, 1], the mean over the C (C - 1) pairs of dimensions."""
    centred = descriptors - descriptors.mean(dim=0)
    directions = F.normalize(centred, dim=0)
    correlations = directions.T @ directions
    between = correlations.square().sum() - correlations.diagonal().square().sum()
    return between / (len(correlations) * (len(correlations) - 1))


def explained_share(wanted: Tensor, given: Tensor) -> float:
    """The coefficient of determination R^2 of all values together: (B, C) twice -> at most 1.

    1 - sum of (wanted - given)^2 / sum of (wanted - mean of the column)^2.
    """
    left = (wanted - given).square().sum()
    return float(1 - left / (wanted - wanted.mean(dim=0)).square().sum())


def pretrained_descriptors(deepest: Tensor) -> Tensor:
    """P: a teacher's deepest level (B, C, h, w), averaged over the patch: (B, C)."""
    return deepest.mean(dim=(2, 3))


def pretrained_input(patches: Tensor) -> Tensor:
    """Patches (B, 3, p, p) resized to the input size of the pretrained network."""
    return F.interpolate(patches, (_PRETRAINED_SIDE,) * 2, mode="bilinear", align_corners=False)


def patches_and_shifted(images: Sequence[Tensor], patch_size: int) -> tuple[Tensor, Tensor]:
    """Cut a random patch of each image, and the same patch shifted and with noise.

    An image is zoomed to 4 to 16 times the patch before it is cut, and loses its colours in one of
    ten cases; the shift is at most a quarter of the patch.

    Args:
        images: B times float (3, H, W) in [0, 1]; the same image may be there several times.
        patch_size: in pixels.

    Returns:
        float (B, 3, p, p) twice.
    """
    reach = (patch_size - 1) // 4
    low, high = _ZOOM
    zoom = low * patch_size, high * patch_size
    around = greyed(zoomed_windows(images, patch_size + 2 * reach, zoom), _GREY_SHARE)
    middle = around[:, :, reach : reach + patch_size, reach : reach + patch_size]
    return middle, noisy(random_windows(around, patch_size), _NOISE)
