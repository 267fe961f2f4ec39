"""What a user account may be called and protected with (fact sheet 2.2); all problems at once."""

import unicodedata

from ambientd.wire.messages import ErrorDetail

NAME_MIN, NAME_MAX = 3, 32
PASSWORD_MIN, PASSWORD_MAX = 8, 1024
EMAIL_MAX = 255


def check_registration(username: str, password: str, email: str | None) -> tuple[ErrorDetail, ...]:
    """What is wrong with a registration, in the order of the fields; nothing when it is good."""
    found = []
    size = len(username.encode("utf-8", "replace"))
    if not NAME_MIN <= size <= NAME_MAX:
        found.append(_detail("username", "length", f"{NAME_MIN} to {NAME_MAX} bytes"))
    elif not all(letter.isalnum() or letter == "_" for letter in username):
        found.append(_detail("username", "format", "letters, digits and underscores"))
    elif unicodedata.normalize("NFC", username) != username:
        found.append(_detail("username", "format", "composed characters (Unicode NFC)"))
    found += check_password(password)
    if email is not None and not _is_email(email):
        found.append(_detail("email", "format", f"an address with an @, at most {EMAIL_MAX} characters"))
    return tuple(found)


def check_password(password: str) -> list[ErrorDetail]:
    """Length only: rules about kinds of characters make passwords worse."""
    if PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        return []
    return [_detail("password", "length", f"{PASSWORD_MIN} to {PASSWORD_MAX} characters")]


def _is_email(email: str) -> bool:
    return bool(email.strip()) and len(email) <= EMAIL_MAX and "@" in email and email.isprintable()


def _detail(field: str, issue: str, expected: str) -> ErrorDetail:
    return ErrorDetail(field=field, issue=issue, message=f"must be {expected}", expected=expected)
