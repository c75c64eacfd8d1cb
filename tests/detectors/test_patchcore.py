"""PatchCore against its formulas and scikit-learn's nearest neighbours."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeNormals, combined, levels_of, one_batch
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from toys import toy_normals, toy_teacher

from stillwatch.detectors.blocks.patch_memory import whitening_of
from stillwatch.detectors.patchcore import PatchCore
from stillwatch.geometry import fitted
from stillwatch.teachers.networks import images_to_input
from stillwatch.training.data import TilePool, TileSet


@pytest.fixture(scope="module")
def detector() -> PatchCore:
    made = PatchCore.build(toy_teacher(), {"coreset": 0.1})
    made.prepare(MadeNormals(toy_normals(6), made.teacher))
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return images_to_input(torch.from_numpy(toy_normals(2, first=50)))


def patches_of(detector: PatchCore, images: Tensor) -> np.ndarray:
    """Features of the levels at strides 8 and 16, averaged over 3×3, joined at stride 8."""
    _, fine, coarse = detector.teacher(images)
    fine, coarse = F.avg_pool2d(fine, 3, 1, 1), F.avg_pool2d(coarse, 3, 1, 1)
    coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear")
    joined = torch.cat([fine, coarse], dim=1).permute(0, 2, 3, 1)
    return np.asarray(joined.flatten(1, 2).numpy(), dtype=np.float64)


def test_the_memory_is_a_share_of_the_patches(detector: PatchCore) -> None:
    assert detector.memory.patches.shape == (-(-6 * 64 // 10), 20 + 28)


def test_map_is_the_smoothed_distance_to_the_nearest(detector: PatchCore, images: Tensor) -> None:
    patches = patches_of(detector, images) @ detector.memory.whitening.double().numpy()
    oracle = NearestNeighbors(n_neighbors=1).fit(detector.memory.patches.double().numpy())
    distances = oracle.kneighbors(patches.reshape(-1, patches.shape[-1]))[0].reshape(2, 1, 8, 8)
    resized = F.interpolate(
        torch.from_numpy(distances), (16, 16), mode="bilinear", align_corners=True
    )[:, 0]
    expected = np.stack([gaussian_filter(one, 5 / 4) for one in resized.numpy()])
    levels = levels_of(detector, toy_normals(2, first=50))
    found = combined(levels, detector.combination(levels, 5.0))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_map_by_hand() -> None:
    """A patch (3, 4) is 5 from (0, 0) and 1 from (3, 3), both remembered."""
    detector = PatchCore.build(toy_teacher(), {"whitened": False})
    fine, coarse = torch.full((1, 1, 16, 16), 3.0), torch.full((1, 1, 8, 8), 4.0)
    detector.teacher = FixedNetwork([fine, fine, coarse])
    detector.memory.patches = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    (level,) = detector.level_maps(torch.zeros(1, 3, 128, 128))
    # Near the sides the neighbourhoods are padded.
    torch.testing.assert_close(level[0, 3:-3, 3:-3], torch.ones(10, 10))


def test_whitening_by_hand() -> None:
    """The covariance is diag(2, 1/2), its mean eigenvalue 5/4, a tenth of which is added."""
    patches = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 7
    made = whitening_of(patches)
    torch.testing.assert_close(made @ made.T, torch.diag(torch.tensor([1 / 2.125, 1 / 0.625])))


def test_of_equal_patches_whitening_stays_finite() -> None:
    assert whitening_of(torch.ones(5, 3)).isfinite().all()


def test_the_coreset_is_chosen_from_patches_drawn_at_random() -> None:
    """100 of 6 · 64, of every batch its share; the seed decides which."""
    teacher, normals = toy_teacher(), toy_normals(6)
    whole = np.concatenate(
        patches_of(PatchCore.build(teacher, {}), one_batch(normals, teacher).images)
    )
    memories = []
    for seed in (0, 0, 1):
        made = PatchCore.build(teacher, {"coreset": 1, "max_patches": 100, "whitened": False})
        torch.manual_seed(seed)
        made.prepare(MadeNormals(normals, teacher))
        memories.append(made.memory.patches)
    first, again, other = memories
    assert len(first) == len(other) == 100
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    distances, rows = NearestNeighbors(n_neighbors=1).fit(whole).kneighbors(first.double().numpy())
    assert distances.max() < 1e-4
    per_image = np.bincount(rows[:, 0] // 64, minlength=6)
    assert per_image[:4].sum() == 66
    assert per_image.min() > 0


def test_padding_is_not_remembered() -> None:
    """Of an image of 32×33 pixels, 4×5 of the 4×8 positions of its tile."""
    image = np.random.default_rng(0).integers(0, 256, (32, 33, 3)).astype(np.uint8)
    made = PatchCore.build(toy_teacher(), {"coreset": 1})
    pool = TilePool(TileSet([image], fitted([(32, 33)], 33)), made.teacher, torch.device("cpu"))
    made.prepare(list(pool.batches(1, torch.arange(1))))
    assert len(made.memory.patches) == 20


def test_many_channels_are_projected_for_the_choice_alone() -> None:
    teacher = toy_teacher()
    made = PatchCore.build(teacher, {"coreset": 0.5})
    features = [
        torch.randn(1, count, 64 // s, 64 // s) for count, s in ((8, 4), (100, 8), (80, 16))
    ]
    with torch.random.fork_rng():
        made.prepare(
            [SimpleNamespace(features=features, covered=lambda _: torch.ones(1, 8, 8) > 0)]
        )
    assert made.memory.patches.shape == (32, 180)
