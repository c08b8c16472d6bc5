"""Validation by sampling: completions, metrics, intervals."""
