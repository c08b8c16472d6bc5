"""Rollout engines: who writes the completions. One file per option."""
