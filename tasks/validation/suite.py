"""Build the suite of expectations on a category's images.

Importing this module imports Great Expectations, which takes three seconds: import it inside the
function that uses it.
"""

from collections import Counter

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.row_conditions import Column

from stillwatch.calibration import images_needed, reachable_alpha
from stillwatch.images.layout import is_feedback
from stillwatch.images.manifest import ImageFacts, Manifest, RegionFacts
from stillwatch.images.split import PARTS, images_to_add
from stillwatch.settings import CheckSettings, Settings
from stillwatch.tasks.validation.advice import SMALLEST_SEEN, ScaleAdvice
from stillwatch.tasks.validation.checks import (
    IN_TEST,
    IN_TRAIN,
    NORMALS,
    TEST_ANOMALIES,
    CategoryCheck,
    Check,
    ImageCheck,
    Wording,
    between,
    empty,
    equal,
    named,
    no_value,
    printable_name,
    reason_of,
    some_images,
)
from stillwatch.tasks.validation.statistics import CategoryStatistics, size_text
from stillwatch.tasks.validation.suite_comparisons import (
    clipping_checks,
    duplicate_checks,
    picture_checks,
    uniformity_checks,
)
from stillwatch.tasks.validation.suite_masks import mask_checks
from stillwatch.text import printable

_ALMOST_BLACK = 16
"""Of 255 grey values; 12 bits in files of 16 look so with a white level of 16 bits."""


def build_suite(
    manifest: Manifest,
    statistics: CategoryStatistics,
    *,
    settings: Settings,
    advice: ScaleAdvice | None = None,
) -> tuple[Check, ...]:
    """All checks that apply to this category, in the order of the report."""
    checks = settings.checks
    return (
        *_file_checks(checks),
        *_layout_checks(manifest),
        *_light_checks(manifest),
        *_train_checks(manifest, settings),
        *_test_checks(),
        *mask_checks(manifest),
        *_region_checks(manifest.region),
        *_scale_checks(advice),
        *duplicate_checks(statistics),
        *uniformity_checks(statistics),
        *picture_checks(checks),
        *clipping_checks(statistics, checks.max_clipped),
    )


def _file_checks(checks: CheckSettings) -> tuple[Check, ...]:
    return (
        ImageCheck(
            name="decodes",
            title="Unreadable files",
            advice="Replace the file by a good copy, or delete it.",
            expectation=empty("decode_error", "critical"),
            describe=lambda row, _: Wording(
                "a complete PNG, JPEG, BMP or TIFF image", reason_of(row.decode_error, row.path)
            ),
        ),
        ImageCheck(
            name="one_page",
            title="Files with several pages",
            advice="Nothing, if the other pages are thumbnails; else save the page that is meant.",
            expectation=between("pages", "warning", max_value=1),
            describe=lambda row, image: Wording(
                "one page", f"{row.pages} pages; the largest is read, {image.size} pixels"
            ),
        ),
        ImageCheck(
            name="bytes_as_recorded",
            title="Files that differ from the data version",
            advice="Restore the file (stillwatch data checkout TAG); if the change was meant, "
            "version the image set again.",
            expectation=equal("md5", "recorded_md5"),
            describe=lambda row, _: _describe_bytes(row),
        ),
        ImageCheck(
            name="large_enough",
            title="Images that are too small",
            advice="Replace it by the image at full size (limit: setting checks.min_side).",
            expectation=between("shortest_side", "critical", min_value=checks.min_side),
            describe=lambda _, image: Wording(
                f"shortest side at least {checks.min_side} pixels", f"{image.size} pixels"
            ),
        ),
        ImageCheck(
            name="safe_names",
            title="Unsafe file names",
            advice="Rename the file or folder, best to letters, digits, '-', '_' and '.'.",
            expectation=empty("unsafe_name", "critical"),
            describe=lambda _, image: Wording(
                "a name that every system can store and print", printable(image.unsafe_name or "")
            ),
        ),
        ImageCheck(
            name="names_for_windows",
            title="File names that Windows refuses",
            advice="Nothing, unless the images are to be copied to Windows: then rename them.",
            expectation=empty("refused_by_windows", "warning"),
            describe=lambda _, image: Wording(
                "a name that every system can store", image.refused_by_windows or ""
            ),
        ),
    )


def _layout_checks(manifest: Manifest) -> tuple[Check, ...]:
    """No image is left out, and what is left out is named."""
    return (
        CategoryCheck(
            name="every_image_read",
            title="Images that are not read",
            advice="Move the images to train/good, test/good or test/<defect>, or remove them.",
            expectation=no_value("unread_images", "warning"),
            describe=lambda _: Wording(
                "images only in train/good, test/good, test/<defect> and feedback",
                f"not read: {named(manifest.unread_images)}",
            ),
        ),
        CategoryCheck(
            name="only_images",
            title="Files of other programs",
            advice="Nothing: they are left out. Delete them, or keep them elsewhere, to lose this "
            "warning.",
            expectation=no_value("litter", "warning"),
            describe=lambda _: Wording("only images", f"left out: {named(manifest.litter)}"),
        ),
    )


def _light_checks(manifest: Manifest) -> tuple[Check, ...]:
    """The white level suits the images."""
    if all(row.mean is None for row in manifest.rows if row.split == "train"):
        return ()
    return (
        ImageCheck(
            name="within_white_level",
            title="Pixels above the white level",
            advice="Nothing, if it is a dead pixel of the sensor: it is shown as white. If the "
            "samples are right, set images.white_level to the largest one.",
            expectation=empty("above_white", "warning"),
            describe=lambda row, _: Wording(
                f"samples up to {manifest.white_level}, the white level that most pixels of the "
                "train normals need",
                "up to {2} at x {0}, y {1}".format(*row.above_white or ("?", "?", "?")),
            ),
        ),
        CategoryCheck(
            name="not_black",
            title="Images that are almost black",
            advice="Set images.white_level to the largest sample of a bright part, if the files "
            "have 16 bits; else check light and exposure.",
            expectation=gxe.ExpectColumnMedianToBeBetween(
                column="light", min_value=_ALMOST_BLACK, row_condition=IN_TRAIN, severity="critical"
            ),
            describe=lambda median: Wording(
                f"bright parts with grey values of at least {_ALMOST_BLACK} of 255",
                f"{median:.0f} in half of the train images, with the white level "
                f"{manifest.white_level}",
            ),
        ),
    )


def _train_checks(manifest: Manifest, settings: Settings) -> tuple[Check, ...]:
    checks, calibration = settings.checks, settings.calibration
    parts = _parts(manifest)
    needed = images_needed(min(calibration.alpha_reject, calibration.alpha_review))
    return (
        CategoryCheck(
            name="enough_train_normals",
            title="Missing train normals",
            advice="Add images of good parts to train/good.",
            expectation=_distinct_images("train", checks.min_train_normals),
            describe=lambda count: Wording(
                f"at least {checks.min_train_normals} different images to learn from",
                _too_few_to_learn_from(int(count), parts, settings),
            ),
        ),
        CategoryCheck(
            name="enough_calibration_normals",
            title="Missing calibration normals",
            advice="Add images of good parts to train/good, or ask for a larger "
            "calibration.alpha_reject.",
            expectation=_distinct_images("calibration", needed),
            describe=lambda count: Wording(
                f"at least {needed} calibration normals for a false-alarm rate of "
                f"{min(calibration.alpha_reject, calibration.alpha_review)}",
                _too_few_to_calibrate(int(count), needed, parts),
            ),
        ),
    )


def _test_checks() -> tuple[Check, ...]:
    return (
        CategoryCheck(
            name="test_normals",
            title="Missing test normals",
            advice="Put some images of good parts into test/good.",
            expectation=some_images("path", IN_TEST & NORMALS),
            describe=lambda _: Wording(
                "images in test/good", "none: the false-alarm rate cannot be measured"
            ),
        ),
        CategoryCheck(
            name="test_anomalies",
            title="Missing test anomalies",
            advice="Put images of defects into test/<defect> as soon as there are some.",
            expectation=some_images("path", TEST_ANOMALIES),
            describe=lambda _: Wording(
                "images in test/<defect>", "none: test anomalies will be synthetic"
            ),
        ),
    )


def _region_checks(region: RegionFacts | None) -> tuple[Check, ...]:
    if region is None:
        return ()
    size = size_text(region.width, region.height)
    return (
        CategoryCheck(
            name="region_usable",
            title="Unusable region of interest",
            advice="Correct the file, or delete it if all pixels count.",
            expectation=no_value("region_error", "critical"),
            describe=lambda _: Wording(
                "a readable region with pixels that count",
                reason_of(region.error, region.path),
            ),
        ),
        ImageCheck(
            name="region_size",
            title="Images of another size than the region of interest",
            advice=f"Draw {region.path} at the size of all images, or remove the images of another "
            "size: they would be refused in production, too.",
            expectation=equal("size", "region_size"),
            describe=lambda _, image: Wording(
                f"{size} pixels, as {region.path}", f"{image.size} pixels"
            ),
        ),
        ImageCheck(
            name="region_upright",
            title="Images that EXIF turns under the region of interest",
            advice=f"Look at the picture of the region: {region.path} is for the upright image. If "
            "it was drawn on the stored pixels, save the images upright.",
            expectation=empty("turned_from_region", "warning"),
            describe=lambda row, _: Wording(
                f"an upright image, as {region.path} is drawn for",
                f"turned by its EXIF orientation {row.turned_from_region}",
            ),
        ),
        ImageCheck(
            name="defect_in_region",
            title="Defects outside the region of interest",
            advice="Nothing, if these defects do not matter: the images are in no figure. Else "
            f"correct {region.path}.",
            expectation=between(
                "mask_area_in_region", "warning", min_value=1, condition=TEST_ANOMALIES
            ),
            describe=lambda row, _: Wording(
                "a defect that is in the region, at least in part",
                f"{printable_name(row.mask)} is wholly outside",
                row.mask,
            ),
        ),
    )


def _scale_checks(advice: ScaleAdvice | None) -> tuple[Check, ...]:
    """The smallest defect keeps some pixels in what the network sees."""
    if advice is None or advice.defect is None or advice.chosen is None:
        return ()
    defect, chosen = advice.defect, advice.chosen
    return (
        CategoryCheck(
            name="defect_large_enough",
            title="Defects that are too small after scaling",
            advice="With images.scale fit, set a larger images.size or a factor such as 0.5 or 1.0 "
            "for this category; with a factor, set a larger one. The comparison of scales says "
            "what each costs.",
            expectation=gxe.ExpectColumnMinToBeBetween(
                column="seen_defect", min_value=SMALLEST_SEEN, severity="warning"
            ),
            describe=lambda _: Wording(
                f"at least {SMALLEST_SEEN:g} pixels of the smallest defect's shorter side in what "
                "the network sees",
                f"{chosen.seen} pixels with {chosen.name}. {defect.sentence()}",
            ),
        ),
    )


def _distinct_images(part: str, at_least: int) -> Expectation:
    return gxe.ExpectColumnUniqueValueCountToBeBetween(
        column="shown",
        min_value=at_least,
        row_condition=Column("part") == part,
        severity="critical",
    )


def _describe_bytes(row: ImageFacts) -> Wording:
    if row.expected_md5 is None:
        return Wording("a file that the data version lists", "not listed: added during the run")
    return Wording(
        f"md5 {row.expected_md5[:12]}…",
        "the file differs from what DVC recorded (bit rot or edited during the run): md5 "
        f"{row.md5[:12]}…",
    )


def _parts(manifest: Manifest) -> Counter[str]:
    """The number of distinct images in each part, without the corrected ones."""
    distinct = {row.md5: row.part for row in manifest.rows if not is_feedback(row.path)}
    return Counter(distinct.values())


def _too_few_to_learn_from(count: int, parts: Counter[str], settings: Settings) -> str:
    """What the train normals are used for, and how many more are needed."""
    more = images_to_add(
        parts,
        to_learn=settings.checks.min_train_normals - count,
        settings=settings.split,
        smallest_alpha=settings.calibration.alpha_reject,
    )
    if more is None:
        return f"{count}: calibration_share and validation_share in split leave no image for more"
    return f"{count}{_use(count, parts, 'train')}: add {more} more good images"


def _too_few_to_calibrate(count: int, needed: int, parts: Counter[str]) -> str:
    found = f"{count}{_use(count, parts, 'calibration')}: add {needed - count} more good images"
    return (
        f"{found} ({count} allow a rate of {reachable_alpha(count):g} or more)" if count else found
    )


def _use(count: int, parts: Counter[str], part: str) -> str:
    total = sum(parts[name] for name in (*PARTS, "unassigned"))
    uses = f"{parts['train']} to learn from, {parts['calibration']} calibrate, "
    uses += f"{parts['validation']} watch the training"
    if parts["unassigned"]:
        uses += f", {parts['unassigned']} have no part yet"
    alike = f"; only {count} of the {parts[part]} show other parts" if parts[part] > count else ""
    return f", of {total} good images ({uses}{alike})"
