"""The HTTP service of ``stillwatch serve``, which inspects images with the champions."""
