"""Log-space, simplex and information-theoretic numerics."""
