"""Pictures as prompts for the model in the box: a vision encoder and two adapters."""
