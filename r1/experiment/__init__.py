"""More than one run: pipelines, sweeps, grids and reports."""
