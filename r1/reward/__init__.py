"""Rewards: named terms, each a plain function, and their weighted sum."""
