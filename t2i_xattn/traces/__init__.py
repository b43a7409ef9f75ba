"""What a recorded run leaves: traces, heat maps, regions. No model is needed to read them."""
