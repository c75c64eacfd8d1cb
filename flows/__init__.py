"""Third floor: when and in what order. Prefect flows and the command line."""
