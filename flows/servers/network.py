"""Addresses and ports of servers, and the passwords that servers beyond loopback need."""

import os
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from stillwatch.errors import SettingsError

ANY_ADDRESS = "0.0.0.0"  # noqa: S104


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at ``host``.

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
    """Whether only this machine can reach a bound socket.

    The bound address counts, not the host name: ``localhost`` may resolve to any address.
    """
    return ip_address(bound.getsockname()[0]).is_loopback


def ensure_protected(host: str, passwords: Sequence[str]) -> None:
    """Refuse to let a server listen beyond loopback unless it can ask for passwords.

    Args:
        host: where it is to listen.
        passwords: the environment variables from which the server takes them.

    Raises:
        SettingsError: a password is not set, or ``host`` is no address of this machine.
    """
    missing = [name for name in passwords if not os.environ.get(name)]
    if missing and not is_loopback(host):
        raise SettingsError(
            f"services.host: {host} is not loopback, so others can reach what listens there: set "
            f"{' and '.join(missing)} in the environment (docs/installation.md says to what), or "
            "leave services.host out."
        )


def reachable_host(host: str) -> str:
    """The address under which this machine reaches a server that listens at ``host``."""
    return "127.0.0.1" if host == ANY_ADDRESS else host


def free_port(host: str, preferred: int) -> int:
    """The preferred port if nothing listens on it, else another one that is free."""
    if is_free(host, preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
