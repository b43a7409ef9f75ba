"""What the maps of words are to be like, as losses; `guide` moves latents along their gradients."""
