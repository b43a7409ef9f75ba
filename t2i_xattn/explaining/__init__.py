"""What words do to a picture: by intervention, held against what attention shows."""
