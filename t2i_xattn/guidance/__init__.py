"""Latents moved by losses over the maps of words, while a picture is made."""
