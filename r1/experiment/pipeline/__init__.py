"""Several runs as one experiment: read as steps, planned against what is there, run in processes of their own."""
