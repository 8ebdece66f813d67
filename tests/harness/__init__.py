"""What the tests are made of: a FastCGI client, real processes, and the tools of the machine.

Nothing here imports the package under test, so that a mistake in it cannot hide itself.
"""
