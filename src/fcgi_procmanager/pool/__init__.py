"""The adaptive pool: how many workers, for how long, and what they are doing."""
