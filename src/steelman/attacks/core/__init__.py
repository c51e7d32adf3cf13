"""What every attack is made of: the contract, the oracle, balls and grids."""
