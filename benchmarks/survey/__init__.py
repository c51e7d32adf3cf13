"""Every defence on MNIST: one start, one budget, one battery, one table (`make survey`)."""
