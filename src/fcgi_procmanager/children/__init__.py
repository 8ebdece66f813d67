"""Child processes of a manager: who is there, who is forked, who is due for which signal, who has ended."""
