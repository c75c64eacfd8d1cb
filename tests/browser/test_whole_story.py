"""Retrained, approved, served, rolled back: what a person does with a mouse, with real servers."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from tests.browser.mlflow_pages import MlflowPages
from tests.browser.prefect_pages import PrefectPages
from tests.browser.running_plant import Running, running_plant
from tests.flows.conftest import ROOT
from tests.flows.http_client import Reply
from tests.flows.running_service import Service, serving
from tests.flows.waiting import until

CHROMIUM = shutil.which("chromium")
PICTURES = ROOT / "test-output" / "browser"
PATIENCE_MS = 600_000

pytestmark = [
    pytest.mark.servers,
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(2400),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_plant(tmp_path) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        # As root, which tests in containers are, Chromium starts only without its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture
def keep(page: Page) -> Iterator[Callable[[str], None]]:
    """Keeps pictures of pages, numbered; the last one shows where a test ended."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)

    def keep(name: str) -> None:
        number = len(list(PICTURES.iterdir())) + 1
        # Charts come after the text, and pages that ask for news all the time are never idle.
        page.wait_for_timeout(2000)
        page.screenshot(path=PICTURES / f"{number:02} {name}.png", full_page=True)

    yield keep
    page.screenshot(path=PICTURES / "last.png")


def test_from_retraining_to_rollback(
    running: Running, page: Page, keep: Callable[[str], None]
) -> None:
    prefect = PrefectPages(page, running.prefect, keep)
    mlflow = MlflowPages(page, running.mlflow, keep)
    retrain(prefect)
    form = look_at_what_waits(prefect, mlflow)
    with serving(running.plant, "bolt") as service, under_load(service, running) as replies:
        until(lambda: last_answers_by(replies) == {1})
        prefect.open_filled_in_form(form)
        expect(page.get_by_role("button", name="Select category")).to_have_text("bolt")
        expect(page.get_by_role("spinbutton", name="version")).to_have_value("2")
        prefect.answer(approver="Eva", reason="seen on line 3")
        prefect.submit("promote bolt")
        until(lambda: last_answers_by(replies) == {2})
        mlflow.open_version("stillwatch-bolt", 2)
        expect(mlflow.alias("champion")).to_be_visible()
        prefect.open_form("rollback")
        prefect.choose("category", "bolt")
        prefect.answer(approver="Tom", reason="too many false alarms")
        prefect.submit("rollback bolt")
        until(lambda: last_answers_by(replies) == {1})
    assert {reply.status for reply in replies} == {200}
    mlflow.open_version("stillwatch-bolt", 1)
    expect(mlflow.alias("champion")).to_be_visible()
    told = json.loads(running.plant.run("history", "bolt", "--json").stdout)
    assert [(one["kind"], one["from"], one["to"], one["who"], one["reason"]) for one in told] == [
        ("rollback", 2, 1, "Tom (not authenticated)", "too many false alarms"),
        ("promotion", 1, 2, "Eva (not authenticated)", "seen on line 3"),
    ]


def retrain(prefect: PrefectPages) -> None:
    prefect.open_form("retrain")
    expect(prefect.page.get_by_text("Product lines to retrain")).to_be_visible()
    prefect.choose("categories", "bolt")
    prefect.choose("detectors", "stfpm")
    prefect.submit("retrain bolt")
    tasks = prefect.tab("Task Runs")
    for name in ("train bolt/stfpm", "evaluate bolt/stfpm", "register bolt"):
        expect(tasks.get_by_role("link", name=name, exact=True)).to_be_visible()


def look_at_what_waits(prefect: PrefectPages, mlflow: MlflowPages) -> str:
    """From the run's page: its table, the report behind its link, the registered version.

    Returns:
        Where the approval page's link to the filled-in form leads.
    """
    page = prefect.page
    run = page.url
    prefect.open_artifact("retraining")
    row = page.get_by_role("row").filter(has_text="stfpm")
    outcome = "registered v2 challenger, waits for approval"
    expect(row.get_by_role("cell", name=outcome)).to_be_visible()
    page.goto(run)
    prefect.open_artifact("approval-bolt")
    expect(page.get_by_text("version 2 waits for approval").first).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^champion: "))).not_to_have_count(0)
    form = page.get_by_role("link", name="fill in your name and a reason").get_attribute("href")
    assert form is not None
    page.goto(run)
    prefect.open_artifact("report-bolt")
    page.get_by_role("link", name="Report of the retraining of bolt").click()
    expect(mlflow.shown_page().get_by_text("stfpm registered as version 2").first).to_be_visible()
    mlflow.keep("report")

    mlflow.open_version("stillwatch-bolt", 2)
    expect(mlflow.alias("challenger")).to_be_visible()
    expect(mlflow.tag("stillwatch.approval", "pending")).to_be_visible()
    expect(page.get_by_text("of 100 new good parts about").first).to_be_visible()
    expect(mlflow.open_picture("stfpm", "gallery.png")).to_be_visible()
    mlflow.keep("gallery")
    return form


@contextmanager
def under_load(service: Service, running: Running) -> Iterator[list[Reply]]:
    """Two clients ask until the block ends; what they are told."""
    image = (running.plant.folder / "data" / "bolt" / "test" / "good" / "000.png").read_bytes()
    replies: list[Reply] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.1):
            replies.append(service.ask("/inspect/bolt", image))

    with ThreadPoolExecutor(2) as clients:
        working = [clients.submit(work) for _ in range(2)]
        try:
            yield replies
        finally:
            ended.set()
        for client in working:
            client.result()


def last_answers_by(replies: list[Reply]) -> set[int]:
    """The versions that gave the last few."""
    return {reply.json.get("model_version") for reply in replies[-8:]}
