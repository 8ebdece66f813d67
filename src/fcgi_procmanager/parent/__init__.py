"""The parent of several pools: one manager process for each of them. `fcgi-procmanager run` is its public face."""
