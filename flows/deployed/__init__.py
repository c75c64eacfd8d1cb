"""What the deployments of ``prefect.yaml`` run: the forms of the Prefect UI over the jobs.

A file for each group of them, for every run is a process of its own: what runs every minute shall
not import what trains. No form reaches beyond what the settings file, which the worker's
environment names, says: it takes no path but that of a folder in ``inspection.path``.
"""
