"""Reward terms: one function per file, with TRL's signature; a reward written for TRL is a term as it is."""
