"""The report: one HTML file that shows a run to whoever hovers over its words."""
