"""What people see of a pool: a snapshot of it, and its forms.

Pure: no system call, no clock, no manager. Runs wherever somebody shows a pool: in the manager, in the command. Methods, addresses
and reasons come from clients and applications: none of them may reach a terminal or a page as it came.
"""
