"""Whole attention processors, to set by hand or to swap in."""
