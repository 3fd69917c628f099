"""The pairs, by family. A module here holds pairs and nothing else that is public."""
