"""Reward terms: one function per file, with TRL's signature, so a reward written for TRL is a term as it stands."""
