"""`t2i-xattn app`: a page on this machine to paint, look, change and explain; needs Gradio."""
