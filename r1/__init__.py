"""r1: R1-style post-training experiments, composed from config groups."""
