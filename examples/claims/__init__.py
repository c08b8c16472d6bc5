"""The claims of the DeepSeek-R1 paper against the runs of experiment=claims; see ``examples.claims.claims``."""
