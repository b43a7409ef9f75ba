"""The model in the box."""
