"""The one exception a user of this package should ever see for a mistake of his own."""


class UserError(ValueError):
    """A file, flag or value from outside is not usable; the message names it, what was expected and what to do."""
