"""The errors whose message is meant for the user."""


class UserError(ValueError):
    """Something that the user can mend; the message says what was received, the rule, the mend."""
