"""Train image classifiers that resist adversarial attack, and find out honestly whether they do."""
