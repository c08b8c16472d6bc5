"""Engines in other processes: vLLM's client, weight synchronisation, asynchronous sampling."""
