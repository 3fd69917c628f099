"""Mistakes as students of the lecture "Becoming a Backprop Ninja" make them in its backwards."""
