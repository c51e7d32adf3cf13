"""Commands killed at random moments, which have to end in the bits of an uninterrupted one: `make soak`."""
