"""The tables of accounts. Used only inside the slice."""
