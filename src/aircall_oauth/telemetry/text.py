"""Text that is safe to show on a terminal and in a log."""


def readable(text: str) -> str:
    """Return text on one line, with control characters and other invisible ones as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
