"""Listening sockets: what people write for them, making them, inheriting them, removing them."""
