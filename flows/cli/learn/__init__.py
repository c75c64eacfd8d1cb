"""Commands that version and validate image sets and train on them."""
