"""Commands killed at random moments, which have to end in the bits of one that nobody disturbed: `make soak`."""
