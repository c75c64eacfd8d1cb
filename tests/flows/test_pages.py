"""``stillwatch ui``: pages that answer, on addresses that are printed, and nothing left behind."""

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from flows.processes import answers
from tests.flows.conftest import make_plant

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("servers")]


def test_both_pages_answer_until_they_are_stopped(tmp_path: Path) -> None:
    plant = make_plant(tmp_path / "line")
    with plant.start("ui") as pages:
        assert pages.stdout is not None
        printed = [pages.stdout.readline() for _ in range(3)]
        addresses = re.findall(r"http://127\.0\.0\.1:\d+", "".join(printed))
        titles = [_page(address) for address in addresses]
        pages.send_signal(signal.SIGTERM)
        assert pages.wait() == 0, printed
    assert "MLflow" in titles[0]
    assert "Prefect" in titles[1]
    assert not any(answers(address) for address in addresses)


def _page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as reply:  # noqa: S310
        text: str = reply.read().decode()
    return text
