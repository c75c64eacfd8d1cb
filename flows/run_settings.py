"""The settings of a deployed flow run."""

import os
from pathlib import Path

from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.flows.sole_process import ensure_sole_process
from stillwatch.settings import Settings, load_settings
from stillwatch.threads import set_thread_policy


def deployed_settings() -> Settings:
    """The settings, unless an earlier process still works on this flow run.

    ``runtime.threads`` is in effect from here on.

    Raises:
        SettingsError: the settings file is not what it should be.
    """
    settings = load_settings(Path(os.environ.get(PARAMS_VARIABLE, "params.yaml")))
    set_thread_policy(settings.runtime.threads)
    ensure_sole_process(settings.state_dir)
    return settings
