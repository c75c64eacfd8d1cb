"""Servers that others can reach must ask for passwords."""

import os
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from stillwatch.errors import SettingsError

ANY_ADDRESS = "0.0.0.0"  # noqa: S104


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach a server that listens at ``host``.

    Raises:
        SettingsError: ``host`` is no address of this machine.
    """
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            return at_loopback(probe)
    except OSError as error:
        raise SettingsError(
            f"services.host: this machine cannot listen at {host} ({error}). Set it to one of its "
            f"own addresses, to {ANY_ADDRESS} for all of them, or leave it out for loopback."
        ) from error


def at_loopback(bound: socket.socket) -> bool:
    """Whether nobody but this machine can reach what listens at a bound socket.

    The address that is bound counts, not the name: localhost can be made to mean anything.
    """
    return ip_address(bound.getsockname()[0]).is_loopback


def ensure_protected(host: str, passwords: Sequence[str]) -> None:
    """Refuse to let a server listen beyond loopback unless it can ask for passwords.

    Args:
        host: where it is to listen.
        passwords: the environment variables that it takes them from.

    Raises:
        SettingsError: one of them is not set, or ``host`` is no address of this machine.
    """
    missing = [name for name in passwords if not os.environ.get(name)]
    if missing and not is_loopback(host):
        raise SettingsError(
            f"services.host: {host} is not loopback, so others can reach what listens there: set "
            f"{' and '.join(missing)} in the environment (docs/installation.md says to what), or "
            "leave services.host out."
        )


def reachable_host(host: str) -> str:
    """Under which address this machine itself reaches a server that listens at ``host``."""
    return "127.0.0.1" if host == ANY_ADDRESS else host
