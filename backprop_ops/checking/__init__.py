"""The checker: is a hand-written backward right. It imports neither ops nor lecture."""
