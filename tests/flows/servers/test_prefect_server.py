"""The local Prefect server of a state folder."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from uuid import UUID

import pytest
from made_prefect import new_prefect_database, prefect_server
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from stillwatch.errors import ServerError
from stillwatch.flows.cli.outcome import print_server
from stillwatch.flows.servers.prefect_server import (
    PREFERRED_PORT,
    local_api,
    local_server,
    prefect_api,
)
from stillwatch.flows.servers.service import answers
from stillwatch.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("prefect_server")]


def test_commands_share_one_server_which_stays_and_its_end_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_prefect_database(tmp_path)
    settings = Settings(state_dir=tmp_path)
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from stillwatch.flows.servers.prefect_server import prefect_api
        from stillwatch.settings import Settings
        with prefect_api(Settings(state_dir=Path(sys.argv[1]))) as url:
            print(url)
        """
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    first, second = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    urls = {process.communicate()[0].strip() for process in (first, second)}
    assert urls == {local_api(settings)}
    (url,) = urls
    assert answers(f"{url}/health"), "it stays"
    print_server(settings)
    assert f"Prefect: {url.removesuffix('/api')} (runs until" in capsys.readouterr().out
    server = local_server(settings).running()
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    said = f"Its log {local_server(settings).log} may say why"
    with pytest.raises(ServerError, match=said) as caught, prefect_api(settings) as replaced:
        assert answers(f"{replaced}/health")
        local_server(settings).stop()
        with get_client(sync_client=True) as client:
            client.api_version()
    assert f"the Prefect server at {replaced} failed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert local_api(settings) is None


def test_a_configured_server_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        pytest.raises(ServerError, match=r"no Prefect server answers there.*profiles\.toml"),
        prefect_api(Settings(state_dir=tmp_path)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_server_on_another_port_shows_its_own_pages_runs_flows_and_schedules(
    tmp_path: Path,
) -> None:
    """One wrong version of a dependency breaks only the scheduler, and silently."""

    @flow
    def nightly() -> int:
        return 7

    new_prefect_database(tmp_path)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has it: just as well
            taken.bind(("127.0.0.1", PREFERRED_PORT))
            taken.listen()
        with prefect_server(Settings(state_dir=tmp_path)) as url:
            assert url != f"http://127.0.0.1:{PREFERRED_PORT}/api"
            pages = url.removesuffix("/api")
            with urllib.request.urlopen(f"{pages}/ui-settings", timeout=60) as reply:  # noqa: S310
                assert json.load(reply)["api_url"] == url
            assert nightly() == 7
            deployment_id = nightly.to_deployment("nightly", cron="* * * * *").apply()
            runs = scheduled_runs(deployment_id)
    assert runs, "the cron deployment got no scheduled run: check the pinned sqlalchemy"


def scheduled_runs(deployment_id: UUID) -> list[FlowRun]:
    """Of a deployment, once there are any; none after 90 seconds."""
    deadline = time.monotonic() + 90
    with get_client(sync_client=True) as client:
        while True:
            runs = [
                run
                for run in client.read_flow_runs()
                if run.deployment_id == deployment_id and run.state_name == "Scheduled"
            ]
            if runs or time.monotonic() > deadline:
                return runs
            time.sleep(0.5)
