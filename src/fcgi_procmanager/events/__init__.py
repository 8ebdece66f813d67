"""The one loop of a process that keeps children: what it waits for, and the parts that any such process has."""
