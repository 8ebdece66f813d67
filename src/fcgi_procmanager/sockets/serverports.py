"""The ports that a superdaemon has handed over, by SERVER_STARTER_PORT. Pure; imports nothing, so that a program that only wants
to know its ports loads nothing else.
"""

VARIABLE = "SERVER_STARTER_PORT"


def parse(text: str) -> dict[str, int]:
    """`spec=fd;spec=fd` as a dict; empty for an empty text. Raises ValueError."""
    found = {}
    for part in filter(None, text.split(";")):
        spec, equals, number = part.rpartition("=")
        if not equals or not (number.isascii() and number.isdigit() and len(number) <= 9):
            raise ValueError(f"{VARIABLE} is not understood at {part!r}")
        found[spec] = int(number)
    return found


def write(ports: list[tuple[str, int]]) -> str:
    return ";".join(f"{spec}={number}" for spec, number in ports)
