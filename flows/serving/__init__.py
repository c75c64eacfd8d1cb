"""``stillwatch serve``: champions behind HTTP, exchanged while they answer."""
