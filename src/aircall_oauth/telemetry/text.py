"""Text that is safe to show on a terminal and in a log."""


def readable(text: str) -> str:
    """Text on one line with control characters, and others that cannot be seen, as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
