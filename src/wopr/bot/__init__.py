"""The bot: a program of its own that imports nothing else of wopr, so that its image stays small."""
