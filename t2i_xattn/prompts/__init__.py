"""Prompts: their words, and the columns where the text encoders put them."""
