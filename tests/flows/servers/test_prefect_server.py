import contextlib
import json
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest
from made_prefect import new_prefect_database

from stillwatch.errors import ServerError
from stillwatch.flows.servers.prefect_server import PREFERRED_PORT, LocalPrefectServer, prefect_api
from stillwatch.flows.servers.processes import answers
from stillwatch.settings import ServicesSettings, Settings
from stillwatch.tasks.liveness import ProcessIdentity

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("prefect_server")]


def server_of(folder: Path) -> ProcessIdentity:
    register = json.loads((folder / "server.json").read_text())
    return ProcessIdentity(*register["server"])


def test_several_processes_share_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    folder = tmp_path / "prefect"
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from stillwatch.flows.servers.prefect_server import LocalPrefectServer
        from stillwatch.settings import ServicesSettings
        with LocalPrefectServer(Path(sys.argv[1]), ServicesSettings()).joined() as url:
            print(url, flush=True)
            sys.stdin.readline()
        """
    )

    def join() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with LocalPrefectServer(folder, ServicesSettings()).joined() as url:
        server = server_of(folder)
        other, killed = join(), join()
        assert other.stdout is not None
        assert killed.stdout is not None
        assert {other.stdout.readline().strip(), killed.stdout.readline().strip()} == {url}
        killed.kill()
        killed.communicate()
    assert answers(f"{url}/health"), "the other process still uses it"
    other.communicate("\n")
    assert not server.is_alive(), "the killed registrant must not keep it alive"
    assert not (folder / "server.json").exists()


def test_a_dead_server_is_replaced(tmp_path: Path) -> None:
    new_prefect_database(tmp_path)
    folder = tmp_path / "prefect"
    local = LocalPrefectServer(folder, ServicesSettings())
    with local.joined():
        server_of(folder).stop()
        with local.joined() as url:
            assert answers(f"{url}/health")


def test_a_server_that_dies_on_the_way_is_one_sentence(tmp_path: Path) -> None:
    from prefect import get_client

    new_prefect_database(tmp_path)
    folder = tmp_path / "prefect"
    with (
        pytest.raises(ServerError, match=f"Its log {folder / 'server.log'} may say why") as caught,
        prefect_api(Settings(state_dir=tmp_path)) as url,
    ):
        server_of(folder).stop()
        with get_client(sync_client=True) as client:
            client.api_version()
    assert f"the Prefect server at {url} failed" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_pages_show_their_own_server_also_on_another_port(tmp_path: Path) -> None:
    new_prefect_database(tmp_path)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has it: just as well
            taken.bind(("127.0.0.1", PREFERRED_PORT))
            taken.listen()
        with LocalPrefectServer(tmp_path / "prefect", ServicesSettings()).joined() as url:
            assert url != f"http://127.0.0.1:{PREFERRED_PORT}/api"
            pages = url.removesuffix("/api")
            with urllib.request.urlopen(f"{pages}/ui-settings", timeout=60) as reply:  # noqa: S310
                assert json.load(reply)["api_url"] == url


def test_a_configured_server_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        pytest.raises(ServerError, match="no Prefect server answers there"),
        prefect_api(Settings(state_dir=tmp_path)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_pinned_versions_run_a_flow_and_schedule_a_cron_deployment(tmp_path: Path) -> None:
    """One wrong version of a dependency breaks only the scheduler, and silently."""
    from prefect import flow, get_client

    @flow
    def nightly() -> int:
        return 7

    new_prefect_database(tmp_path)
    with prefect_api(Settings(state_dir=tmp_path)):
        assert nightly() == 7
        deployment = nightly.to_deployment("nightly", cron="* * * * *")
        deployment_id = deployment.apply()
        deadline = time.monotonic() + 90
        with get_client(sync_client=True) as client:
            while True:
                runs = [
                    run
                    for run in client.read_flow_runs()
                    if run.deployment_id == deployment_id and run.state_name == "Scheduled"
                ]
                if runs or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
    assert runs, "the cron deployment got no scheduled run: check the pinned sqlalchemy"
