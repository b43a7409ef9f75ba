"""Prompts with weights, blends, schedules and more than one window, as arguments of a pipeline."""
