"""One self-contained HTML page about a run, several runs, a sweep or a pipeline; see ``r1.report``."""
