"""Prompt templates: the text around a question that the model continues. One file per option."""
