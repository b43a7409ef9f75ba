"""Recording: what of a run is kept, and how."""
