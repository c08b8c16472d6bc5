"""r1 composes DeepSeek-R1-style post-training experiments, runs them, and keeps records that reproduce every number."""

__version__ = "0.2.0.dev0"
