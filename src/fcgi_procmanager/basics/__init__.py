"""Plain values without a system call of their own: clock, exit statuses, states, checks, the log."""
