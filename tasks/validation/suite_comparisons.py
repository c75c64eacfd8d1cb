"""Expectations that compare an image with the others of its category."""

import great_expectations.expectations as gxe

from stillwatch.settings import CheckSettings
from stillwatch.tasks.validation.checks import (
    IN_TEST,
    IN_TRAIN,
    CategoryCheck,
    Check,
    ImageCheck,
    Wording,
    between,
    empty,
    no_value,
)
from stillwatch.tasks.validation.statistics import CategoryStatistics, ImageStatistics
from stillwatch.text import printable

NAMED_NEIGHBOURS = 3


def duplicate_checks(statistics: CategoryStatistics) -> tuple[Check, ...]:
    """No image is twice in train, or in two of train, test and corrected anomalies."""
    return (
        ImageCheck(
            name="no_test_image_in_train",
            title="Test images and corrected anomalies that are also in train",
            advice="Delete one of the two files: figures from images seen in training are worth "
            "nothing.",
            expectation=empty("copies_in_train", "critical"),
            describe=lambda _, image: Wording(
                "an image that is not in train",
                f"the same bytes as {' and '.join(map(printable, image.copies_in_train))}",
                image.copies_in_train[0],
            ),
        ),
        ImageCheck(
            name="no_feedback_in_test",
            title="Corrected anomalies that are also in test",
            advice="Delete the one in test: images that were chosen by their scores would bias "
            "its figures.",
            expectation=empty("copies_in_test", "critical"),
            describe=lambda _, image: Wording(
                "an image that is not in test",
                f"the same bytes as {' and '.join(map(printable, image.copies_in_test))}",
                image.copies_in_test[0],
            ),
        ),
        ImageCheck(
            name="no_test_image_nearly_in_train",
            title="Test images that are nearly in train",
            advice="Look at both: if it is the same part and shot, delete one of them.",
            expectation=empty("near_in_train", "warning", IN_TEST),
            describe=lambda _, image: _describe_near(image, statistics),
        ),
        ImageCheck(
            name="distinct_in_train",
            title="Copies in train",
            advice="Delete the copy; it counts once anyway.",
            expectation=empty("earlier_copy", "warning"),
            describe=lambda _, image: Wording(
                "an image that train has once",
                f"the same bytes as {printable(image.earlier_copy or '')}",
                image.earlier_copy,
            ),
        ),
        ImageCheck(
            name="not_nearly_equal_in_train",
            title="Nearly equal train images",
            advice="Look at both: two shots of one part at rest teach nothing new, and the "
            "false-alarm bound is too good if one of them is in calibration.",
            expectation=empty("near_in_train", "warning", IN_TRAIN),
            describe=lambda _, image: _describe_near(image, statistics),
        ),
        CategoryCheck(
            name="each_image_shows_another_part",
            title="Images that show the same",
            advice="Keep one image of each part: frames of a part at rest teach nothing new, and "
            "thresholds from them reject every other part.",
            expectation=no_value("repeated", "warning"),
            describe=lambda _: Wording(
                "each image shows another part", statistics.scenes.sentence() or ""
            ),
        ),
    )


def uniformity_checks(statistics: CategoryStatistics) -> tuple[Check, ...]:
    """One camera, one setting: the same size and mode as most train normals."""
    if statistics.usual_size is None or statistics.usual_mode is None:
        return ()
    return (
        ImageCheck(
            name="same_size",
            title="Images of another size",
            advice="Check the camera's settings; images are resized, so that parts would be "
            "shown at another scale.",
            expectation=gxe.ExpectColumnValuesToBeInSet(
                column="size", value_set=[statistics.usual_size], severity="warning"
            ),
            describe=lambda _, image: Wording(
                f"{statistics.usual_size} pixels, as most train images", f"{image.size} pixels"
            ),
        ),
        ImageCheck(
            name="same_mode",
            title="Images of another colour mode",
            advice="Check the camera's or the converter's settings.",
            expectation=gxe.ExpectColumnValuesToBeInSet(
                column="mode", value_set=[statistics.usual_mode], severity="warning"
            ),
            describe=lambda row, _: Wording(
                f"mode {statistics.usual_mode}, as most train images", f"mode {row.mode}"
            ),
        ),
    )


def picture_checks(checks: CheckSettings) -> tuple[Check, ...]:
    """Normals are as sharp and as bright as the category's train normals."""
    limit = checks.outlier_z
    expected = f"within {limit:g} robust standard deviations of this category's train normals"
    return (
        ImageCheck(
            name="not_blurred",
            title="Blurred normals",
            advice="Look at it: delete it if it is out of focus or moved.",
            expectation=between("sharpness_z", "warning", min_value=-limit),
            describe=lambda row, image: Wording(
                expected, f"blurred: sharpness {row.sharpness:.3g}, {_off(image.sharpness_z)}"
            ),
        ),
        ImageCheck(
            name="not_dark",
            title="Dark normals",
            advice="Look at it: delete it if the light or the trigger failed.",
            expectation=between("exposure_z", "warning", min_value=-limit),
            describe=lambda row, image: Wording(
                expected, f"dark: mean grey value {row.mean:.0f}, {_off(image.exposure_z)}"
            ),
        ),
        ImageCheck(
            name="not_blown_out",
            title="Blown-out normals",
            advice="Look at it: delete it if it is overexposed.",
            expectation=between("exposure_z", "warning", max_value=limit),
            describe=lambda row, image: Wording(
                expected, f"blown out: mean grey value {row.mean:.0f}, {_off(image.exposure_z)}"
            ),
        ),
    )


def clipping_checks(statistics: CategoryStatistics, limit: float) -> tuple[Check, ...]:
    """Few pixels of normals are black or white."""
    title = "Clipped normals"
    expected = f"at most {limit:.0%} of the pixels at 0 or 255"
    if statistics.usual_clipped is not None and statistics.usual_clipped > limit:
        # A white background gives one failure of the category, not one per image.
        return (
            CategoryCheck(
                name="not_clipped",
                title=title,
                advice="Check exposure and images.white_level; if the background is meant to be "
                "black or white, raise checks.max_clipped.",
                expectation=gxe.ExpectColumnMedianToBeBetween(
                    column="clipped", max_value=limit, row_condition=IN_TRAIN, severity="warning"
                ),
                describe=lambda median: Wording(expected, f"{median:.0%} in half of the images"),
            ),
        )
    return (
        ImageCheck(
            name="not_clipped",
            title=title,
            advice="Look at it: delete it if the exposure failed.",
            expectation=between("clipped", "warning", max_value=limit),
            describe=lambda row, image: Wording(expected, f"{image.clipped:.0%}"),
        ),
    )


def _describe_near(image: ImageStatistics, statistics: CategoryStatistics) -> Wording:
    named = [
        f"{n.distance} bits to {printable(n.path)}" for n in image.near_in_train[:NAMED_NEIGHBOURS]
    ]
    if len(image.near_in_train) > NAMED_NEIGHBOURS:
        named.append(f"and {len(image.near_in_train) - NAMED_NEIGHBOURS} more as close")
    return Wording(
        f"about {statistics.usual_neighbour:g} of 256 bits to the most similar image, as usual in "
        "this category",
        ", ".join(named),
        image.near_in_train[0].path,
    )


def _off(z: float | None) -> str:
    return "" if z is None else f"{abs(z):.1f} deviations from usual"
