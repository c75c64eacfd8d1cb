"""Image sets: scanning, decoding, facts, splitting, storing, generating. Needs no torch."""
