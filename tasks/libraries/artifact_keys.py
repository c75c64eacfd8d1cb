"""Keys of the pages and tables in Prefect."""


def artifact_key(kind: str, category: str) -> str:
    """The key of a category's artifact of one kind; such keys may not contain ``_``."""
    return f"{kind}-{category.replace('_', '-')}"
