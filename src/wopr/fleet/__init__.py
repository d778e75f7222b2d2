"""Bots: desired state in the database, reality observed, a pure planner between them."""
