"""What a command refuses to do."""


class UsageError(Exception):
    """Bad usage: exit status 2. The text is one line that says what is wrong and what would be right."""
