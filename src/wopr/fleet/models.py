"""The tables of fleet. Used only inside the slice."""
