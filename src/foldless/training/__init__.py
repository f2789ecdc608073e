"""Training: the loop on one page, checkpoints that resume bit for bit, the log."""
