"""Prompt templates: how a question becomes the text that the model continues. One file per option."""
