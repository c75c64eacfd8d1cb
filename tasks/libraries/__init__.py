"""Settings of third-party libraries, for every process that uses them.

``telemetry`` is switched off, ``proxies`` are kept away from servers of this machine, ``logs`` go
to a file, and ``artifact_keys`` are names that Prefect accepts.
"""
