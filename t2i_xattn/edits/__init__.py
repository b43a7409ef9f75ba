"""The edits of attention: pure functions `(probs, context) -> probs`, one idea a file."""
