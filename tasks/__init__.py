"""The steps of the pipeline, as Prefect tasks; only this package uses DVC, GX and MLflow.

Every function that writes a file raises ``StorageError`` if the folder cannot be written to or the
disk is full. A docstring names the error again only where something else raises it, too.
"""

import os

from stillwatch.machine.threads import thread_environment
from stillwatch.tasks.libraries.proxies import loopback_exceptions
from stillwatch.tasks.libraries.telemetry import switch_off_telemetry

switch_off_telemetry()
os.environ.update(loopback_exceptions(os.environ))
os.environ.update(thread_environment(os.environ))  # before a task imports torch
