"""How far the student is from the teacher, elementwise (see ``r1.divergence.Divergence``). One file per option."""
