"""Files of prompts: read as needed, painted and recorded, and kept so that a run goes on."""
