import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillwatch.errors import LayoutError, StorageError
from stillwatch.inference.inspector import InspectedImage
from stillwatch.inference.score_log import (
    GivenVerdict,
    LabelledImage,
    LoggedImage,
    ScoreLog,
    appearance,
    logged,
    open_score_log,
)
from stillwatch.settings import InspectionSettings, Settings

ROW = LoggedImage(
    model_version=3,
    file="part.png",
    md5="0" * 32,
    brightness=120.5,
    sharpness=33.25,
    score=0.1,
    p_value=0.5,
    verdict="pass",
)


def rows(*scores: float, **changes: object) -> list[LoggedImage]:
    return [replace(ROW, score=score, **changes) for score in scores]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ScoreLog]:
    with ScoreLog(tmp_path / "scores", 1000) as log:
        yield log


def test_what_a_version_said_comes_back_in_order_whatever_the_verdict(log: ScoreLog) -> None:
    log.append("plate", rows(0.3, 0.1))
    log.append("plate", rows(9.0, verdict="reject"))
    log.append("plate", rows(5.0, model_version=4))
    log.append("cloth", rows(7.0))
    found = log.read_scores("plate", 3)
    assert found["score"].tolist() == [0.3, 0.1, 9.0]
    assert found["verdict"].tolist() == ["pass", "pass", "reject"]
    assert found.index.tolist() == [1, 2, 3]
    assert found["time"].is_monotonic_increasing
    assert str(found["time"].dt.tz) == "UTC"
    first = found.iloc[0]
    assert (first.category, first.model_version, first.file) == ("plate", 3, "part.png")
    assert (first.md5, first.p_value) == ("0" * 32, 0.5)
    assert (first.brightness, first.sharpness) == (120.5, 33.25)
    assert log.read_scores("plate", 4)["score"].tolist() == [5.0]


def test_bundles_that_are_not_registered_have_a_stream_of_their_own(log: ScoreLog) -> None:
    assert log.read_scores("plate", None).empty
    log.append("plate", rows(1.0, model_version=None, file=None))
    log.append("plate", rows(2.0))
    found = log.read_scores("plate", None)
    assert found["score"].tolist() == [1.0]
    assert found["model_version"].isna().all()
    assert found["file"].isna().all()


def test_the_oldest_go_first_and_numbers_are_never_given_again(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, inspection=InspectionSettings(log_rows=5))
    with open_score_log(settings) as log:
        for start in (0, 3, 6):
            log.append("plate", rows(*map(float, range(start, start + 3))))
        found = log.read_scores("plate", 3)
        assert found["score"].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0]
        assert found.index.tolist() == [5, 6, 7, 8, 9]
        log.append("plate", rows(*map(float, range(20))))
        assert log.read_scores("plate", 3)["score"].tolist() == [15.0, 16.0, 17.0, 18.0, 19.0]


WRITER = """
import sys
from pathlib import Path
from stillwatch.inference.score_log import LoggedImage, ScoreLog
print("imported", flush=True)
input()
with ScoreLog(Path(sys.argv[1]), 1000) as log:
    for number in range(100):
        row = LoggedImage(1, None, "0" * 32, 0.0, 0.0, float(number), 0.5, "pass")
        log.append("plate", [row, row])
"""


def test_two_processes_write_to_a_new_log_at_once(tmp_path: Path, log: ScoreLog) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "scores")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "imported\n"
        writer.stdin.write("\n")
        writer.stdin.flush()
        while writer.poll() is None:
            log.append("plate", rows(0.5))
            assert set(log.read_scores("plate", 3)["score"]) == {0.5}
    assert writer.returncode == 0
    scores = log.read_scores("plate", 1)["score"].tolist()
    assert scores == [float(n) for n in range(100) for _ in range(2)]


def test_the_last_verdict_of_an_image_is_known_and_labels_are_kept(log: ScoreLog) -> None:
    assert log.verdicts_of("plate", ["0" * 32]) == {}
    log.append("plate", rows(0.1))
    log.append("plate", rows(9.0, verdict="reject", model_version=4))
    log.append("plate", rows(9.0, md5="1" * 32, model_version=None))
    found = log.verdicts_of("plate", ["0" * 32, "1" * 32, "2" * 32])
    assert found == {"0" * 32: GivenVerdict(4, "reject"), "1" * 32: GivenVerdict(None, "pass")}
    labels = [
        LabelledImage(found["0" * 32], "part.png", "0" * 32, "good", "Eva"),
        LabelledImage(None, "new.png", "2" * 32, "scratch", "Eva"),
    ]
    for label in labels:
        log.append_labels("plate", [label])
    assert log.read_labels("plate") == labels
    assert len(log.read_scores("plate", 3)) == 1


def test_a_name_that_is_no_category_makes_no_file(tmp_path: Path, log: ScoreLog) -> None:
    with pytest.raises(LayoutError, match="a-z"):
        log.append("../../plate", rows(1.0))
    assert not list(tmp_path.rglob("*.db"))


def test_a_damaged_log_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plate.db").write_bytes(b"no database" * 100)
    with ScoreLog(tmp_path, 10) as log, pytest.raises(StorageError, match=r"plate\.db: .*not a"):
        log.append("plate", rows(1.0))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "scores").write_text("a file")
    with ScoreLog(tmp_path / "scores", 10) as log, pytest.raises(StorageError, match="scores"):
        log.append("plate", rows(1.0))


def test_a_transaction_that_fails_leaves_nothing(log: ScoreLog) -> None:
    log.append("plate", rows(1.0))
    with pytest.raises(StorageError, match="score log"):
        log.append("plate", [*rows(2.0), replace(ROW, score=float("nan"))])
    assert log.read_scores("plate", 3)["score"].tolist() == [1.0]


def test_a_file_name_that_is_not_text_is_kept_with_its_bytes_as_escapes(log: ScoreLog) -> None:
    image = InspectedImage(1.0, 0.5, "pass", np.zeros((2, 2), np.float32), np.zeros((2, 2), bool))
    seen = appearance("f" * 32, np.zeros((2, 2, 3), np.uint8))
    log.append("plate", [logged(seen, image, model_version=1, file="part\udcff.png")])
    assert log.read_scores("plate", 1)["file"].tolist() == [r"part\udcff.png"]


def test_brightness_and_sharpness_of_plain_images() -> None:
    grey = appearance("f" * 32, np.full((20, 30, 3), 100, np.uint8))
    assert (grey.md5, grey.brightness, grey.sharpness) == ("f" * 32, 100.0, 0.0)
