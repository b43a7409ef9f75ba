"""How a picture was made: written into what is saved, and read again."""
