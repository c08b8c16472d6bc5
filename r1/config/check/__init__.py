"""Checks before anything heavy: config.py against the code, rules.py key against key, parts.py part against part."""
