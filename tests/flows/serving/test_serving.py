"""``stillwatch serve`` as its clients see it: a process of its own over a real registry."""

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
import yaml
from made_champions import MadeCategory
from made_detectors import small
from made_stores import new_store
from PIL import Image
from tests.flows.conftest import Plant
from tests.flows.http_client import Reply, ask
from tests.flows.running_service import Service, serving
from tests.flows.waiting import until

from stillwatch.bundle import WEIGHTS_FILE
from stillwatch.flows.cli.inspection.export import export_model
from stillwatch.flows.models import open_model
from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import build_manifest
from stillwatch.inference.files import inspect_files
from stillwatch.inference.score_log import open_score_log
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import fetch_bundle

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("serving")]

SERVING = {"poll_seconds": 0.3, "max_megapixels": 1.0, "max_requests": 24}
ALPHAS = (0.05, 0.2, 0.25)
"""Of versions 1, 2 and 3: each has another threshold."""
NOT_SERVED = 'stillwatch_champion_not_served{category="plate"}'


@dataclass(frozen=True)
class Line:
    """A plant whose only category has three versions; the first is champion."""

    plant: Plant
    category: MadeCategory

    @property
    def files(self) -> list[Path]:
        """Test images, normal and scratched."""
        return sorted((self.category.folder / "test").rglob("*.png"))

    def threshold(self, version: int) -> float:
        bundle = fetch_bundle(self.category.tracking, "stillwatch-plate", version)
        return bundle.info.calibration.reject.value

    def logged(self, version: int) -> pd.DataFrame:
        with open_score_log(self.category.settings) as log:
            return log.read_scores("plate", version)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder = tmp_path_factory.mktemp("serving") / "line"
    plant = Plant(folder)
    (folder / "home").mkdir(parents=True)
    settings = small(Settings(state_dir=plant.state))
    params = {
        "images": {"max_megapixels": 0.9},
        "training": {"device": "cpu"},
        "serving": SERVING,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    category = MadeCategory(plant.images / "plate", new_store(settings), settings)
    assert [category.register(alpha=alpha) for alpha in ALPHAS] == [1, 2, 3]
    category.make_champion(1)
    return Line(plant, category)


@pytest.fixture(scope="module")
def service(line: Line) -> Iterator[Service]:
    with serving(line.plant, "plate") as service:
        yield service


def test_answers_are_those_of_inspect_and_both_are_in_the_log(line: Line, service: Service) -> None:
    answers = [service.inspect(file) for file in line.files]
    model = open_model("models:/stillwatch-plate@champion", line.category.settings)
    found = inspect_files(model, line.files, settings=line.category.settings, out=None)
    rows = [asdict(row) for row in found]
    assert {row["verdict"] for row in rows} >= {"pass", "reject"}
    for answer, row in zip(answers, rows, strict=True):
        assert (answer["category"], answer["model_version"]) == ("plate", 1)
        assert answer["verdict"] == row["verdict"]
        assert answer["score"] == pytest.approx(row["score"], rel=1e-5)
        assert answer["p_value"] == row["p_value"]
        assert answer["thresholds"]["reject"] == row["threshold"]
        assert answer["alpha"] == {"reject": 0.05, "review": 0.3}
        assert not {"mask", "overlay"} & answer.keys()

    log = line.logged(1)
    served, inspected = log[log["file"].isna()], log[log["file"].notna()]
    for name in ("md5", "score", "p_value", "verdict"):
        assert served[name].tolist() == [answer[name] for answer in answers]
    assert inspected["file"].tolist() == [file.name for file in line.files]
    for name in ("score", "p_value", "verdict"):
        assert inspected[name].tolist() == [row[name] for row in rows]
    category = scan_category(line.category.folder)
    manifest = build_manifest(
        category, images=line.category.settings.images, expected_md5=None, parts=None
    )
    facts = {row.md5: (row.mean, row.sharpness) for row in manifest.rows}
    for row in log.itertuples():
        assert (row.brightness, row.sharpness) == facts[row.md5]


def test_the_histograms_have_every_request_and_every_score(line: Line, service: Service) -> None:
    seconds = 'stillwatch_request_seconds_{}{{category="plate"}}'
    scores = 'stillwatch_score_of_threshold_{}{{category="plate",model_version="1"}}'
    names = [name.format(part) for name in (seconds, scores) for part in ("count", "sum")]
    service.inspect(line.files[0])
    before = [service.figure(name) for name in names]
    answers = [service.inspect(file) for file in line.files]
    # A request is counted once its answer is out.
    until(lambda: service.figure(names[0]) >= before[0] + len(answers))
    _, took, counted, summed = (
        service.figure(name) - earlier for name, earlier in zip(names, before, strict=True)
    )
    assert took > 0
    assert counted == len(answers)
    shares = [answer["score"] / answer["thresholds"]["reject"] for answer in answers]
    assert summed == pytest.approx(sum(shares))
    below = 'stillwatch_score_of_threshold_bucket{category="plate",le="1.0",model_version="1"}'
    assert 0 < service.figure(below) < service.figure(names[2]), "some were rejected"


def test_what_an_export_judges_is_logged_as_the_version_that_it_was_made_from(
    line: Line, tmp_path: Path
) -> None:
    edge = Settings(state_dir=tmp_path / "state")
    images = line.category.folder / "test"
    export_model(
        "models:/stillwatch-plate/1", tmp_path / "edge", "onnx", images, line.category.settings
    )
    model = open_model(str(tmp_path / "edge"), edge)
    rows = list(inspect_files(model, line.files, settings=edge, out=None))
    with open_score_log(edge) as log:
        assert log.read_scores("plate", 1)["score"].tolist() == [row.score for row in rows]
        assert log.read_scores("plate", None).empty


def test_json_brings_the_same_image(line: Line, service: Service) -> None:
    data = line.files[0].read_bytes()
    body = json.dumps({"image": base64.b64encode(data).decode()}).encode()
    reply = service.ask("/inspect/plate", body, "application/json; charset=utf-8")
    assert reply.status == 200
    assert reply.json == service.inspect(line.files[0])


def test_a_mask_and_a_picture_are_there_when_asked_for(
    line: Line, service: Service, tmp_path: Path
) -> None:
    for file in line.files:
        larger = tmp_path / file.name
        Image.open(file).resize((100, 80)).save(larger)
        answer = service.inspect(larger, "?mask=true&overlay=true")
        assert answer["mask"]["size"] == [80, 100]
        counts = answer["mask"]["counts"]
        assert sum(counts) == 8000
        assert bool(sum(counts[1::2])) == (answer["verdict"] == "reject")
        picture = Image.open(io.BytesIO(base64.b64decode(answer["overlay"])))
        assert (picture.format, picture.width) == ("PNG", 320), "a small image is drawn larger"
        assert picture.height > 256, "the caption is below the image"


def bomb() -> bytes:
    """A few bytes that say they are an image of 40,000 × 40,000 pixels."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, format="PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("body", "kind", "status", "sentence"),
    [
        (bomb(), "image/png", 413, "40000×40000 pixels are more than the 0.9 megapixels"),
        (bytes(4_000_000), "image/png", 413, "images.max_megapixels"),
        (bytes(30_000_000), "image/png", 413, "images.max_megapixels"),
        (b"GIF89a" + bytes(100), "image/gif", 415, "not a PNG, JPEG, BMP or TIFF"),
        (b"image=1", "application/x-www-form-urlencoded", 415, "image/png, or application/json"),
        (b"", "image/png", 422, "empty"),
        (bomb()[:20], "image/png", 422, "damaged or cut short"),
        (b"{}", "application/json", 422, "one key image"),
        (b'{"image": "@@@"}', "application/json", 422, "base64"),
        (b'{"image": 7}', "application/json", 422, "base64"),
    ],
    ids=["bomb", "large", "huge", "gif", "form", "empty", "cut", "key", "base64", "number"],
)
def test_what_is_no_image_is_refused_in_one_sentence(
    service: Service, body: bytes, kind: str, status: int, sentence: str
) -> None:
    name = 'stillwatch_verdicts_total{category="plate",model_version="1",verdict="pass"}'
    before = service.figure(name)
    reply = service.ask("/inspect/plate", body, kind)
    assert (reply.status, reply.json.keys()) == (status, {"detail"})
    assert sentence in reply.json["detail"]
    assert service.figure(name) == before
    assert service.ask("/ready").status == 200


def test_unknown_categories_and_queries_are_named(line: Line, service: Service) -> None:
    data = line.files[0].read_bytes()
    unknown = service.ask("/inspect/plates", data)
    assert unknown.status == 404
    assert "did you mean 'plate'?" in unknown.json["detail"]
    wrong = service.ask("/inspect/plate?mask=perhaps", data)
    assert wrong.status == 422
    assert wrong.json["detail"].startswith("mask: ")
    assert 'category="plates"' not in service.ask("/metrics").body.decode()


def test_of_two_hundred_at_once_each_is_answered_or_told_to_come_back(
    line: Line, service: Service
) -> None:
    data = line.files[0].read_bytes()
    before = len(line.logged(1))
    with ThreadPoolExecutor(200) as clients:
        replies = list(clients.map(lambda _: service.ask("/inspect/plate", data), range(200)))
    statuses = [reply.status for reply in replies]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= SERVING["max_requests"]
    for reply in replies:
        if reply.status == 503:
            assert reply.headers["retry-after"] == "1"
            assert "24 requests are in progress" in reply.json["detail"]
    assert len(line.logged(1)) == before + statuses.count(200)
    assert service.figure("stillwatch_requests_in_work") == 0
    assert service.ask("/inspect/plate", data).status == 200


@contextmanager
def announced(service: Service, *headers: tuple[str, str]) -> Iterator[None]:
    """A request that is in progress as long as this lasts: its body does not arrive."""
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=300)
    connection.putrequest("POST", "/inspect/plate")
    connection.putheader("Content-Type", "image/png")
    for header in headers:
        connection.putheader(*header)
    connection.endheaders()
    until(lambda: service.figure("stillwatch_requests_in_work") == 1)
    yield
    connection.close()
    until(lambda: service.figure("stillwatch_requests_in_work") == 0)


@pytest.mark.parametrize(
    "header",
    [("Content-Length", "2700000"), ("Transfer-Encoding", "chunked")],
    ids=["three-bytes-a-pixel", "unknown-length"],
)
def test_megapixels_in_progress_are_limited_by_length_and_then_by_the_images_header(
    line: Line, service: Service, tmp_path: Path, header: tuple[str, str]
) -> None:
    small = line.files[0].read_bytes()
    Image.new("RGB", (500, 400)).save(tmp_path / "large.png")
    large = (tmp_path / "large.png").read_bytes()
    assert len(large) < 10_000
    with announced(service, header):
        assert service.ask("/inspect/plate", small).status == 200
        for body in (large, bytes(900_000)):
            refused = service.ask("/inspect/plate", body)
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert "images of 0.9 megapixels are in progress" in refused.json["detail"]
    assert service.ask("/inspect/plate", large).status == 200


def test_a_new_champion_takes_over_under_load_and_no_request_is_lost(
    line: Line, service: Service
) -> None:
    replies: list[Reply] = []

    def work(number: int) -> None:
        data = line.files[number].read_bytes()
        while not any(reply.json.get("model_version") == 2 for reply in replies[-8:]):
            replies.append(service.ask("/inspect/plate", data))

    with ThreadPoolExecutor(4) as clients:
        working = [clients.submit(work, number) for number in range(4)]
        until(lambda: len(replies) > 20)
        line.category.make_champion(2)
        for client in working:
            client.result()
    assert {reply.status for reply in replies} == {200}
    answers = [reply.json for reply in replies]
    assert {answer["model_version"] for answer in answers} == {1, 2}
    for answer in answers:
        assert answer["thresholds"]["reject"] == line.threshold(answer["model_version"])
    assert service.state() == {"model_version": 2, "problem": None}
    assert service.figure('stillwatch_model_version{category="plate"}') == 2


def test_a_champion_that_was_tampered_with_leaves_the_old_one_serving(
    line: Line, service: Service
) -> None:
    bundle = fetch_bundle(line.category.tracking, "stillwatch-plate", 3)
    weights = bundle.folder / WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    line.category.make_champion(3)
    until(lambda: "cannot be served" in str(service.state()["problem"]))
    assert service.state()["model_version"] == 2
    assert service.ask("/ready").status == 200
    assert service.figure(NOT_SERVED) == 1
    assert service.inspect(line.files[0])["model_version"] == 2
    said = service.log.read_text()
    assert "version 3 is the champion and cannot be served, version 2 goes on" in said
    assert "damaged or was replaced" in said
    line.category.make_champion(2)
    until(lambda: service.state()["problem"] is None)
    assert service.figure(NOT_SERVED) == 0


def test_mlflow_serves_the_registered_model_with_the_same_verdicts(
    line: Line, service: Service, tmp_path: Path
) -> None:
    files = [*line.files, tmp_path / "wide.png"]
    Image.open(line.files[0]).resize((100, 80)).save(files[-1])
    model = "models:/stillwatch-plate/2"
    port = any_port()
    log = line.plant.folder / "mlflow.log"
    programs = Path(sys.executable).parent  # MLflow starts uvicorn by its name
    environment = line.plant.environment() | {
        "MLFLOW_TRACKING_URI": line.category.tracking.uri,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "mlflow", "models", "serve", "-m", model),
                *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or is_up(url))
        assert process.poll() is None, log.read_text()
        images = [base64.b64encode(file.read_bytes()).decode() for file in files]
        body = json.dumps({"dataframe_records": [{"image": image} for image in images]}).encode()
        rows = ask(url, "/invocations", body, "application/json").json["predictions"]
        text = json.dumps({"dataframe_records": [{"image": images[0][:40]}]}).encode()
        assert ask(url, "/invocations", text, "application/json").status == 400
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    answers = [service.inspect(file) for file in files]
    assert [row["verdict"] for row in rows] == [answer["verdict"] for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert row["score"] == pytest.approx(answer["score"], rel=1e-5)
        assert row["threshold"] == answer["thresholds"]["reject"]
        assert (row["p_value"], row["alpha"]) == (answer["p_value"], answer["alpha"]["reject"])
        assert (row["model_version"], answer["model_version"]) == (2, 2)
        assert row["note"] == answer.get("note")


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(url: str) -> bool:
    try:
        return ask(url, "/ping").status == 200
    except OSError:
        return False


def test_what_is_in_work_at_the_end_is_still_answered(line: Line, service: Service) -> None:
    data = line.files[0].read_bytes()
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=300)
    connection.putrequest("POST", "/inspect/plate")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[:100])
    until(lambda: service.figure("stillwatch_requests_in_work") == 1)
    service.process.send_signal(signal.SIGTERM)
    until(lambda: not accepts(service.url))
    assert service.process.poll() is None
    connection.send(data[100:])
    reply = connection.getresponse()
    assert (reply.status, json.load(reply)["model_version"]) == (200, 2)
    connection.close()
    assert service.process.wait(timeout=120) == 0
    assert "Traceback" not in service.log.read_text()


def accepts(url: str) -> bool:
    try:
        return ask(url, "/health").status == 200
    except OSError:
        return False
