"""Edited runs: which edit acts at which site, in which call."""
