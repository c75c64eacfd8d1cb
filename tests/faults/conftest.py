"""A plant for every fault, repeats of it, and the page that says what came of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from faults_page import render
from made_prefect import new_prefect_database
from tests.faults.moments import processes_of
from tests.flows.conftest import Plant, make_plant

_outcomes: dict[str, Counter[str]] = {}
_STORY = "story"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--repeats", type=int, default=1, help="how often each fault is injected")
    parser.addoption("--page", type=Path, help="where to write what came of them, as Markdown")


@pytest.fixture(autouse=True)
def repeat() -> int:
    """Which repeat it is; parametrized below."""
    return 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("repeat", range(metafunc.config.getoption("--repeats", 1)))


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A plant of its own for each case."""
    plant = make_plant(tmp_path / "line")
    new_prefect_database(plant.state)
    return plant


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path: Path) -> Iterator[None]:
    """A case that failed leaves no process of its plant behind, a suspended one neither."""
    yield
    for process in processes_of(tmp_path):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = (yield).get_result()
    report.user_properties.append((_STORY, (item.function.__doc__ or "").strip()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Here the outcomes of all workers come together."""
    story = dict(report.user_properties).get(_STORY)
    injected = report.when == "call" or (report.when == "setup" and not report.passed)
    if isinstance(story, str) and injected:
        _outcomes.setdefault(story, Counter())[report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    page: Path | None = session.config.getoption("--page", None)
    if page is not None and not hasattr(session.config, "workerinput"):
        page.write_text(render(_outcomes), encoding="utf-8")
