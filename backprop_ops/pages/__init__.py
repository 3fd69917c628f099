"""Pages to look at: the report on the lecture's network, and that of a pair."""
