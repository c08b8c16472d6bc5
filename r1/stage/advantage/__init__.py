"""Credit assignment: from the rewards of a step, (P, G), to one advantage per completion. One file per option."""
