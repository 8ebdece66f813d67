"""The manager: its loop, what it keeps, and `ProcManager`, the face of both halves."""
