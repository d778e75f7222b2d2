"""WOPR: a platform that hosts AI bots for paying customers."""
