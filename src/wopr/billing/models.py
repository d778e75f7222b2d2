"""The tables of billing. Used only inside the slice."""
