"""A worker's life: its wait, its hooks around requests, its ways out."""
