"""The claims of the DeepSeek-R1 paper against the runs of experiment=claims; see ``r1.claims.claims``."""
