"""The lecture's network, built of the pairs: its exercises, its training, its data."""
