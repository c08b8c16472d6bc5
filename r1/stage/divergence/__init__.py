"""Divergence of the student from the teacher, elementwise (``r1.model.fused_divergence``). One file per option."""
