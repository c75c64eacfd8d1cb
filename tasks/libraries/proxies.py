"""Keep connections to this machine's own servers away from the proxies of a company network."""

from collections.abc import Mapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def loopback_exceptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables by which no HTTP client sends loopback addresses to a proxy.

    Exceptions that a variable has already stay in it. Clients read the name in capitals or the
    other one; child processes inherit both.

    Args:
        environment: the variables that are set.
    """
    known = [environment[name] for name in ("no_proxy", "NO_PROXY") if environment.get(name)]
    hosts = [host.strip() for value in known for host in value.split(",")]
    value = ",".join(dict.fromkeys([*filter(None, hosts), *_LOOPBACK]))
    return {"no_proxy": value, "NO_PROXY": value}
