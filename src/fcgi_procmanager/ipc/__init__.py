"""What keeps a manager and its workers together without a signal."""
