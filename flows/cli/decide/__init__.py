"""Commands about registered versions: list, promote, roll back, report."""
