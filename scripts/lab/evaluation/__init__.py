"""Measure a model: its pictures, by the judge, and its heat maps, against drawn scenes."""
