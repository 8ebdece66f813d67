"""What one process asks of the system: signals, forks, its end, its PID file, its title, its service manager."""
