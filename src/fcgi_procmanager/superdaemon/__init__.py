"""The superdaemon: listening sockets that stay, and a program that is replaced over them, generation by generation."""
