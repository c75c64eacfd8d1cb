"""Commands that inspect images, correct verdicts and export detectors."""
