"""What is asked of a pipeline: read, held against limits and the model, painted."""
