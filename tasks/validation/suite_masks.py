"""Expectations on masks: they fit their images, and mark what a mask marks."""

import great_expectations.expectations as gxe

from stillwatch.images.manifest import Manifest
from stillwatch.tasks.validation.checks import (
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
from stillwatch.tasks.validation.statistics import is_normal


def mask_checks(manifest: Manifest) -> tuple[Check, ...]:
    """Every mask has its image; either all anomalies have a usable mask, or none has one."""
    anomalies = [row for row in manifest.rows if row.split == "test" and not is_normal(row)]
    checks = [_no_stray_mask(manifest)]
    if any(row.mask for row in manifest.rows):
        checks += _present_mask_checks()
    if any(row.mask for row in anomalies):
        checks += _anomaly_mask_checks()
    elif anomalies:
        checks.append(_any_mask_check())
    return tuple(checks)


def _no_stray_mask(manifest: Manifest) -> Check:
    return CategoryCheck(
        name="masks_fit_images",
        title="Masks that fit no image",
        advice="Name each mask after its image (ground_truth/scratch/000_mask.png for "
        "test/scratch/000.png), one for each, and delete those without an image.",
        expectation=no_value("stray_masks", "critical"),
        describe=lambda _: Wording(
            "a mask for one image each",
            f"no image, or more than one, fits {named(manifest.stray_masks)}",
        ),
    )


def _any_mask_check() -> Check:
    return CategoryCheck(
        name="any_mask",
        title="Missing masks",
        advice="Nothing, unless you want to know how well defects are located: then draw masks.",
        expectation=some_images("mask", TEST_ANOMALIES),
        describe=lambda _: Wording("masks of the anomalies", "none: image metrics only"),
    )


def _present_mask_checks() -> tuple[Check, ...]:
    """What holds for a mask of any image, good or not."""
    return (
        ImageCheck(
            name="normals_without_mask",
            title="Normals with a defect in their mask",
            advice="Delete the mask, or move the image to the folder of its defect.",
            expectation=between("mask_area", "critical", max_value=0, condition=NORMALS),
            describe=lambda row, _: Wording(
                "no mask, or a black one",
                f"the mask {printable_name(row.mask)} marks {row.mask_area} pixels",
                row.mask,
            ),
        ),
        ImageCheck(
            name="mask_readable",
            title="Unreadable masks",
            advice="Replace the mask by a good copy.",
            expectation=empty("mask_error", "critical"),
            describe=lambda row, _: Wording(
                "a readable mask",
                f"{printable_name(row.mask)}: {reason_of(row.mask_error, row.mask)}",
                row.mask,
            ),
        ),
        ImageCheck(
            name="mask_size",
            title="Masks of another size than the image",
            advice="Save the mask again at the size of the image.",
            expectation=equal("size", "mask_size"),
            describe=lambda row, image: Wording(
                f"a mask of {image.size} pixels", f"{image.mask_size} pixels", row.mask
            ),
        ),
        ImageCheck(
            name="mask_of_two_values",
            title="Masks with more than two values",
            advice="Look at the mask: if it shows less or more than the defect, save it as PNG "
            "with two values, black where there is no defect.",
            expectation=between("mask_values", "warning", max_value=2),
            describe=lambda row, _: Wording(
                "two values",
                f"{printable_name(row.mask)} has {row.mask_values}: those from half of its range "
                f"on mark the defect, {row.mask_area} pixels",
                row.mask,
            ),
        ),
    )


def _anomaly_mask_checks() -> tuple[Check, ...]:
    """What holds for the anomalies of a category with masks."""
    return (
        ImageCheck(
            name="anomalies_with_mask",
            title="Anomalies without a mask",
            advice="Draw the missing mask, or delete all masks of the category to be judged by "
            "image metrics only.",
            expectation=gxe.ExpectColumnValuesToNotBeNull(
                column="mask", row_condition=TEST_ANOMALIES, severity="critical"
            ),
            describe=lambda row, _: Wording("a mask, as other anomalies have", "no mask"),
        ),
        ImageCheck(
            name="mask_not_empty",
            title="Empty masks",
            advice="Draw the defect, or move the image to test/good if there is none.",
            expectation=between("mask_area", "critical", min_value=1, condition=TEST_ANOMALIES),
            describe=lambda row, _: Wording(
                "at least one marked pixel", f"{printable_name(row.mask)} marks none", row.mask
            ),
        ),
        ImageCheck(
            name="mask_plausible",
            title="Masks that are probably inverted",
            advice="Save the mask black where there is no defect and white where the defect is.",
            expectation=empty("mask_doubt", "critical", TEST_ANOMALIES),
            describe=lambda row, _: Wording(
                "a mask that marks at most half of the image, and not its whole border",
                f"{printable_name(row.mask)} {row.mask_doubt}",
                row.mask,
            ),
        ),
    )
