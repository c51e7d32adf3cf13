"""Can a model be trusted: what is looked at before it is attacked, and the signs that attacks were fooled."""
