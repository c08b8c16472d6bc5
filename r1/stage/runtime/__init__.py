"""The run as a stage sees it: ranks, record, stop signal, and completions of the policy."""
