"""Examine a category whose folder changed after the version was made."""

from pathlib import Path

import pytest
from PIL import Image
from tests.tasks.conftest import MakeCategory

from stillwatch.errors import ImageError, LayoutError
from stillwatch.images.store import ImageStore
from stillwatch.settings import CalibrationSettings, ImageSettings, Settings
from stillwatch.tasks.data.examine import ExaminedCategory, examine_category
from stillwatch.tasks.data.version import DataVersion, version_image_set
from stillwatch.tasks.data.workspace import Workspace


@pytest.fixture
def here(settings: Settings) -> Settings:
    alphas = CalibrationSettings(alpha_reject=0.2, alpha_review=0.2)
    return settings.model_copy(update={"images": ImageSettings(size=32), "calibration": alphas})


@pytest.fixture
def data(workspace: Workspace, plate: Path, here: Settings) -> DataVersion:
    (plate / "ground_truth" / "hole" / "000_mask.png").rename(plate / "drawn.png")
    return version_image_set(workspace, here)


def test_files_added_after_the_version_are_ignored(
    data: DataVersion, plate: Path, here: Settings, make_category: MakeCategory
) -> None:
    make_category(plate, normals=13)  # one more normal, and the mask of the anomaly
    version = data.categories["plate"]
    examined = examine_category(version, root=data.root, settings=here)
    paths = {row.path for row in examined.manifest.rows}
    assert paths == set(version.files) - {"drawn.png"}
    assert {row.mask for row in examined.manifest.rows} == {None}
    assert set(ImageStore.open(examined.store).paths) == paths


def test_the_region_of_interest_is_versioned_with_the_images(
    workspace: Workspace, plate: Path, here: Settings
) -> None:
    def examined() -> ExaminedCategory:
        data = version_image_set(workspace, here)
        return examine_category(data.categories["plate"], root=data.root, settings=here)

    before = version_image_set(workspace, here)
    decoded = examine_category(before.categories["plate"], root=before.root, settings=here).store
    identity = decoded.stat().st_ino
    Image.new("1", (8, 6), 1).save(plate / "region.png")
    added_later = examine_category(before.categories["plate"], root=before.root, settings=here)
    assert added_later.manifest.region is None
    assert added_later.read_region() is None
    category = examined()
    assert "region.png" in category.version.files
    assert (category.store, category.store.stat().st_ino) == (decoded, identity)
    region, facts = category.read_region(), category.manifest.region
    assert region is not None
    assert facts is not None
    assert (region.digest, region.share, facts.error) == (facts.digest, 1, None)
    assert {row.path for row in category.manifest.rows} == set(category.version.files) - {
        "region.png",
        "ground_truth/hole/000_mask.png",
    }
    Image.new("1", (8, 6), 1).save(plate / "ignore.png")
    with pytest.raises(ImageError, match=r"has both region\.png and ignore\.png"):
        examined().read_region()


@pytest.mark.parametrize("path", ["train/good/003.png", "drawn.png"])
def test_a_missing_file_of_the_version_is_an_error(
    data: DataVersion, plate: Path, here: Settings, path: str
) -> None:
    (plate / path).unlink()
    with pytest.raises(LayoutError, match=rf"plate: .* missing on disk \({path}\)\. Restore"):
        examine_category(data.categories["plate"], root=data.root, settings=here)
