"""Denoisers: their attention sites, their calls and whose they are, rows and branches."""
