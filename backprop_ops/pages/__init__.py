"""To look at: the report on the lecture's network, that of a pair, the plots of a training."""
