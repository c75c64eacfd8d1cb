import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stillwatch import pictures
from stillwatch.bundle import EpochLosses
from stillwatch.calibration import calibrate
from stillwatch.errors import StorageError
from stillwatch.evaluation.closeups import CloseUp
from stillwatch.inference.overlays import (
    MISSED_OUTLINE,
    REJECT_OUTLINE,
    REVIEW_OUTLINE,
    draw_outline,
    map_limits,
    overlay,
)
from stillwatch.pictures import GalleryItem

CALIBRATION = calibrate(
    np.linspace(0.1, 1.0, 40, dtype=np.float32), alpha_reject=0.05, alpha_review=0.15
)
REJECT, REVIEW = CALIBRATION.reject, CALIBRATION.review


def losses_of(phase: str, epoch: int, train: float, validation: float) -> EpochLosses:
    return EpochLosses(phase=phase, epoch=epoch, train_loss=train, validation_loss=validation)


def make_item(defect_type: str, score: float, verdict: str, name: str = "000.png") -> GalleryItem:
    anomaly_map = np.full((16, 16), 0.05, np.float32)
    anomaly_map[4, 5] = score
    anomalous = defect_type != "good"
    return GalleryItem(
        name=name,
        defect_type=defect_type,
        pixels=np.full((24, 32, 3), 90, np.uint8),
        truth=anomaly_map > 0.05 if anomalous else None,
        anomaly_map=anomaly_map,
        mask=anomaly_map > (REJECT if verdict == "reject" else REVIEW).value,
        score=score,
        p_value=0.02,
        verdict=verdict,
    )


def texts(figure) -> str:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join([*found, figure.get_suptitle()])


def draw(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_overlay_leaves_quiet_surface_alone_and_heats_the_rest():
    pixels = np.full((40, 60, 3), 100, np.uint8)
    anomaly_map = np.zeros((40, 60), np.float32)
    anomaly_map[:, 40:] = 2.0

    seen = overlay(
        pixels, anomaly_map, np.zeros((40, 60), bool), REJECT_OUTLINE, vmin=0.5, vmax=1.5
    )

    assert seen.dtype == np.uint8
    assert np.array_equal(seen[:, :40], pixels[:, :40])
    red, green, blue = seen[0, 50].astype(int)
    assert min(red, green) > blue + 50
    assert np.all(pixels == 100)


def test_the_thumbnails_of_an_image_are_of_one_size_and_show_truth_only_where_there_is_some():
    anomaly = pictures.draw_thumbnails(make_item("hole", 2.0, "reject"), (0.0, 2.0))
    normal = pictures.draw_thumbnails(make_item("good", 0.2, "pass"), (0.0, 2.0))

    assert normal.truth is None
    assert anomaly.truth is not None
    for tile in (anomaly.image, anomaly.truth, anomaly.heat, anomaly.overlay):
        assert tile.shape == (180, 240, 3)
        assert tile.dtype == np.uint8
    assert np.all(anomaly.image == 90)
    assert np.any(anomaly.truth != 90)
    assert np.any(anomaly.overlay != 90)


def test_the_surface_outside_the_region_of_interest_is_dark():
    item = make_item("good", 0.2, "pass")
    counted = np.ones(item.pixels.shape[:2], bool)
    counted[:, : counted.shape[1] // 2] = False
    plain = pictures.draw_thumbnails(item, (0.0, 2.0)).overlay
    shown = pictures.draw_thumbnails(replace(item, counted=counted), (0.0, 2.0)).overlay
    half = plain.shape[1] // 2
    assert np.array_equal(shown[:, half + 1 :], plain[:, half + 1 :])
    assert shown[:, : half - 1].mean() < plain[:, : half - 1].mean() / 2


def test_a_large_image_is_shown_around_its_highest_score():
    pixels = np.full((2048, 410, 3), 90, np.uint8)
    pixels[1200:1204, 200:204] = 255
    part = np.full((60, 60), 0.05, np.float32)
    part[30, 30] = 2.0
    closeup = CloseUp(top=1080, left=80, height=240, width=240, anomaly_map=part, grid=4)
    item = replace(
        make_item("dent", 2.0, "reject"), pixels=pixels, mask=part > REJECT.value, closeup=closeup
    )

    thumbnails = pictures.draw_thumbnails(item, (0.0, 2.0))

    assert (
        thumbnails.image.shape == thumbnails.heat.shape == thumbnails.overlay.shape == (240, 240, 3)
    )
    assert np.all(thumbnails.image[120:124, 120:124] == 255)
    assert thumbnails.heat[122, 122].sum() > 500
    assert thumbnails.truth.shape == (240, 48, 3)
    framed = np.all(thumbnails.truth > 240, axis=2)
    assert 120 <= np.nonzero(framed)[0].min() <= np.nonzero(framed)[0].max() <= 160
    normal = replace(item, defect_type="good", truth=None)
    assert pictures.draw_thumbnails(normal, (0.0, 2.0)).truth is not None
    written = texts(pictures.gallery([item, normal], [item, normal], reject=REJECT, title="bolt"))
    assert "close-up" in written
    assert "no mask" not in written


def test_the_frame_is_at_its_place_in_a_narrow_image():
    closeup = CloseUp(0, 2760, 60, 240, np.zeros((15, 60), np.float32), grid=4)
    item = replace(
        make_item("good", 0.2, "pass"), pixels=np.full((60, 3000, 3), 90, np.uint8), closeup=closeup
    )
    truth = pictures.draw_thumbnails(item, (0.0, 2.0)).truth
    assert truth.shape == (5, 240, 3)
    framed = np.nonzero(np.all(truth > 240, axis=2))[1]
    assert 215 <= framed.min() <= framed.max() < 220


def test_a_figure_as_svg_is_one_drawing_that_needs_no_font():
    curve = pictures.roc_curve([0, 1], [0, 1], 0.5, title="a")
    drawn = ElementTree.fromstring(pictures.svg(curve))  # noqa: S314 -- our own

    assert drawn.tag.endswith("svg")
    assert not [one for one in drawn.iter() if one.tag.endswith("}text")]


def test_overlay_takes_a_map_and_mask_of_another_size():
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2, 6] = 1.0

    seen = overlay(
        np.zeros((64, 96, 3), np.uint8),
        anomaly_map,
        anomaly_map > 0.5,
        REJECT_OUTLINE,
        vmin=0,
        vmax=1,
    )

    hot_rows, hot_columns = np.nonzero(seen.any(axis=2))
    assert seen.shape == (64, 96, 3)
    assert 10 < hot_rows.min() <= hot_rows.max() < 30
    assert 60 < hot_columns.min() <= hot_columns.max() < 92


@given(
    st.integers(0, 31),
    st.integers(0, 47),
    st.sampled_from([REJECT_OUTLINE, REVIEW_OUTLINE, MISSED_OUTLINE]),
)
def test_the_outline_of_a_single_pixel_is_visible_and_does_not_cover_it(row, column, outline):
    mask = np.zeros((32, 48), bool)
    mask[row, column] = True
    pixels = np.full((32, 48, 3), 70, np.uint8)

    seen = overlay(pixels, np.zeros((32, 48), np.float32), mask, outline, vmin=0, vmax=1)

    changed = (seen != pixels).any(axis=2)
    assert not changed[mask].any()
    assert changed[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()


def shares_of_colour(outline):
    """The coloured share of the line along the upper edge of a square."""
    mask = np.zeros((200, 200), bool)
    mask[50:150, 50:150] = True
    drawn = draw_outline(np.full((200, 200, 3), 90, np.uint8), mask, outline)
    edge = np.all(drawn[49, 60:140] == outline.colour, axis=1)
    return edge.mean(), np.count_nonzero(np.diff(edge.astype(int)) == 1)


def test_outlines_differ_in_form_and_not_only_in_colour():
    solid, solid_dashes = shares_of_colour(REJECT_OUTLINE)
    dotted, dots = shares_of_colour(REVIEW_OUTLINE)
    dashed, dashes = shares_of_colour(MISSED_OUTLINE)
    assert (solid, solid_dashes) == (1, 0)
    assert 0.3 < dotted < 0.7 < 1 > dashed > 0.5
    assert dots > 2 * dashes > 4


def test_a_missed_defect_is_drawn_on_the_scale_of_its_own_map():
    missed = pictures.draw_thumbnails(make_item("hole", 0.4, "pass"), (0.0, 2.0))
    passed = pictures.draw_thumbnails(make_item("good", 0.4, "pass"), (0.0, 2.0))

    assert missed.heat.max() > 200 > passed.heat.max()
    assert np.any(np.all(missed.overlay == MISSED_OUTLINE.colour, axis=2))
    assert not np.any(np.all(passed.overlay == MISSED_OUTLINE.colour, axis=2))


def test_an_image_for_review_has_an_outline_of_its_own():
    item = make_item("hole", (REVIEW.value + REJECT.value) / 2, "review")
    seen = pictures.draw_thumbnails(item, (0.0, 2.0)).overlay

    assert np.any(np.all(seen == REVIEW_OUTLINE.colour, axis=2))
    assert not np.any(np.all(seen == REJECT_OUTLINE.colour, axis=2))


def test_a_scale_without_room_heats_nothing():
    pixels = np.full((8, 8, 3), 70, np.uint8)
    no_mask = np.zeros((8, 8), bool)

    seen = overlay(pixels, np.ones((8, 8), np.float32), no_mask, REJECT_OUTLINE, vmin=1, vmax=1)

    assert np.array_equal(seen, pixels)


def test_the_gallery_shows_misses_first():
    items = [
        make_item("good", 0.3, "pass"),
        make_item("dent", 1.4, "reject"),
        make_item("good", 1.2, "reject"),
        make_item("dent", 0.4, "pass"),
        make_item("stain", 0.9, "review"),
        make_item("stain", 0.2, "pass"),
    ]

    shown = pictures.choose_items(items, 16, REJECT.value)

    assert shown[:3] == [items[5], items[3], items[2]]
    assert sorted(map(id, shown)) == sorted(map(id, items))


def test_a_short_gallery_keeps_room_for_false_rejects_and_every_defect_type():
    missed = [make_item("dent", 0.1, "pass") for _ in range(20)]
    alarms = [make_item("good", 1.5, "reject") for _ in range(20)]
    found = [make_item(kind, 1.2, "reject") for kind in ("cut", "dent", "hole") for _ in range(9)]

    crowded = pictures.choose_items(missed + alarms + found, 8, REJECT.value)
    calm = pictures.choose_items(missed[:1] + alarms[:1] + found, 8, REJECT.value)

    assert [item.verdict for item in crowded] == ["pass"] * 6 + ["reject"] * 2
    assert sorted(item.defect_type for item in calm[2:]) == [
        "cut",
        "cut",
        "dent",
        "dent",
        "hole",
        "hole",
    ]


def test_four_images_show_each_verdict_on_a_defect_and_a_good_part_that_passes():
    items = [make_item("dent", score, "reject") for score in (1.2, 1.4)]
    items += [make_item("good", 0.9, "review"), make_item("cut", 0.95, "review")]
    items += [make_item("good", 0.2, "pass"), make_item("stain", 0.3, "pass")]

    assert pictures.one_of_each(items) == [items[1], items[3], items[5], items[4]]
    assert pictures.one_of_each(items[:3]) == [items[1], items[0], items[2]]


def test_a_strip_has_a_captioned_picture_for_each_image():
    items = [make_item("dent", 1.4, "reject"), make_item("größe", 0.4, "pass")]
    strip = pictures.draw_strip(items, (0.0, 2.0), REJECT.value)

    assert strip.shape[1] == 2 * 176
    assert strip.shape[0] > 132 + 40
    for half in (strip[132:, :176], strip[132:, 176:]):
        assert np.count_nonzero(half.min(axis=2) > 150) > 100, "letters are bright"


@given(st.lists(st.sampled_from(["pass", "review", "reject"]), max_size=12), st.integers(1, 9))
def test_the_gallery_never_shows_more_than_asked_for(verdicts, limit):
    items = [make_item("good" if i % 2 else "dent", 0.5, v) for i, v in enumerate(verdicts)]

    assert len(pictures.choose_items(items, limit, REJECT.value)) == min(limit, len(items))


def test_the_threshold_is_in_the_middle_of_the_colour_scale():
    maps = [np.linspace(0, 1, 101, dtype=np.float32)]

    assert map_limits(maps, 0.8) == pytest.approx((0.5, 1.1))
    low, high = map_limits(maps, -3.0)
    assert low < -3.0 < high


def test_the_gallery_says_what_was_said_about_each_image():
    items = [
        make_item("dent", 0.4, "pass", "test/dent/001.png"),
        make_item("good", 1.2, "reject"),
        replace(make_item("cut", 1.3, "reject"), truth=None),
    ]

    figure = pictures.gallery(items, items, reject=REJECT, title="bolt · stfpm", synthetic=True)

    written = texts(figure)
    for words in (
        *("missed", "map on its own scale", "false alarm", "test/dent/001.png"),
        *(f"score ÷ threshold = {0.4 / REJECT.value:.2f}", "p = 0.020", "no mask"),
        *("true defect", "above reject"),
    ):
        assert words in written
    assert "above review" not in written, "no image goes to review"
    assert "bolt · stfpm\nsynthetic anomalies" in written
    assert "missed: 1 of 2 defects · false alarms: 1 of 1 good parts" in written
    assert np.ptp(draw(figure)[..., :3]) > 0


def test_the_gallery_grows_to_two_columns():
    items = [make_item("good", 0.3, "pass") for _ in range(20)]

    narrow = pictures.gallery(items, items[:8], reject=REJECT, title="bolt")
    wide = pictures.gallery(items, items[:16], reject=REJECT, title="bolt")

    assert wide.get_figwidth() == pytest.approx(2 * narrow.get_figwidth())
    assert "16 of 20 test images" in texts(wide)


def test_the_histogram_names_both_thresholds_and_counts_rejected_images():
    figure = pictures.score_histogram(
        [0.2, 0.3, 1.5],
        [0.5, 2.0, 2.1],
        CALIBRATION.scores,
        reject=REJECT,
        review=REVIEW,
        title="bolt",
        synthetic=True,
    )

    written = texts(figure)
    assert "test normals: 1 of 3 rejected" in written
    assert "test anomalies (synthetic): 2 of 3 rejected" in written
    assert f"reject above {REJECT.value:.3g} (α = 0.05)" in written
    assert f"review above {REVIEW.value:.3g} (α = 0.15)" in written
    assert figure.axes[0].get_xscale() == "linear"
    for axes, count in zip(figure.axes, (40, 3, 3), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == count
        lines = {float(line.get_xdata()[0]) for line in axes.lines}
        assert lines == {REJECT.value, REVIEW.value}


@pytest.mark.parametrize(
    ("anomalies", "scale"), [([40.0, 300.0], "log"), ([-2.0, 300.0], "linear"), ([], "linear")]
)
def test_the_histogram_turns_to_a_log_scale_when_scores_are_skewed(anomalies, scale):
    figure = pictures.score_histogram(
        [0.5], anomalies, CALIBRATION.scores, reject=REJECT, review=REVIEW, title="bolt"
    )

    draw(figure)
    assert figure.axes[-1].get_xscale() == scale
    assert len(figure.axes) == (3 if anomalies else 2)
    assert all(sum(bar.get_height() for bar in axes.patches) > 0 for axes in figure.axes)


def test_equal_scores_still_make_a_histogram():
    threshold = replace(REJECT, value=0.5)

    figure = pictures.score_histogram(
        [0.5], [0.5], [0.5] * 3, reject=threshold, review=threshold, title="bolt"
    )

    assert [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes] == [3, 1, 1]


def test_curves_state_their_area_and_interval():
    rates = np.linspace(0, 1, 11)

    roc = pictures.roc_curve(rates, rates, 0.5, (0.4, 0.6), title="bolt", synthetic=True)
    pro = pictures.pro_curve(rates, rates**2, 0.123, title="bolt", limit=0.25)

    assert "AUROC 0.500\n95 % interval 0.400 to 0.600" in texts(roc)
    assert "synthetic anomalies" in texts(roc)
    assert "AUPRO to 25 % 0.123" in texts(pro)
    assert "interval" not in texts(pro)
    line = pro.axes[0].lines[0]
    assert line.get_xdata()[-1] == 0.25
    assert line.get_ydata()[-1] == pytest.approx(0.065)


def test_losses_have_a_panel_per_phase_and_mark_the_kept_epoch():
    epochs = [losses_of("first", i, 10.0 / 4**i, 12.0 / 4**i) for i in range(5)]
    epochs += [losses_of("second", i, 1.0, 1.1) for i in range(3)]

    figure = pictures.loss_curve(epochs, {"first": 3, "second": 0}, title="bolt")

    first, second = figure.axes
    assert (first.get_yscale(), second.get_yscale()) == ("log", "linear")
    assert first.lines[-1].get_xydata().tolist() == [[4, 12.0 / 4**3]]
    assert "kept: epoch 4" in texts(figure)
    assert "kept: epoch 1" in texts(figure)
    draw(figure)


def test_a_long_title_is_broken_into_lines():
    rates = [0.0, 1.0]
    title = "a_category_with_a_long_name · reverse_distillation: ROC over test images"

    figure = pictures.roc_curve(rates, rates, 0.5, title=title)

    assert figure.get_suptitle().replace("\n", " ") == title
    assert "\n" in figure.get_suptitle()


def test_figures_are_saved_whole_and_the_same_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        figure = pictures.roc_curve([0, 0, 1], [0, 1, 1], 1.0, title="bolt")
        pictures.save_figure(figure, tmp_path / "new" / name)

    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]
    first = (tmp_path / "new" / "a.png").read_bytes()
    assert first == (tmp_path / "new" / "b.png").read_bytes()
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.size == (480, 480)
        assert "Software" not in image.info


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    figure = pictures.roc_curve([0, 1], [0, 1], 0.5, title="bolt")

    with pytest.raises(StorageError):
        pictures.save_figure(figure, tmp_path / "file" / "a.png")


def test_pictures_need_neither_pyplot_nor_torch():
    code = (
        "import sys, stillwatch.pictures;"
        "sys.exit(bool({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
