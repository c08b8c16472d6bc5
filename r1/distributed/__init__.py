"""Several processes as one run: collectives, rendezvous, launching, supervision, signals."""
