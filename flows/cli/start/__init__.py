"""Commands for the first hour: the demo, and the check of an installation."""
