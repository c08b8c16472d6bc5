"""From a command line to a checked, resolved config and to the objects it names."""
