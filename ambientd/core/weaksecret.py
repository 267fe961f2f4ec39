"""Whether a secret is good enough to be one (R1.69, R1.73). Answers are sentences without the secret."""

import re

PRODUCTION_MIN = 32
# As examples and forms have them; compared without case, spaces and punctuation.
_PLACEHOLDERS = (
    "changeme",
    "changethis",
    "replaceme",
    "replacethis",
    "placeholder",
    "yoursecret",
    "yourtoken",
    "example",
    "insertsecret",
    "secrethere",
    "setme",
    "todo",
)
_LETTERS = re.compile(r"[^a-z]+")
_FEW = 6  # different characters; 32 random ones of any alphabet have more


def fault_of_secret(value: str, *, production: bool) -> str | None:
    """Why `value` cannot protect anything; None when it can. What production alone refuses is length,
    monotony and the placeholders of examples."""
    if not value.strip():
        return "is empty"
    if value != value.strip() or not value.isprintable():
        return "begins or ends with a blank, or has a control character, which no header can carry"
    if not production:
        return None
    letters = _LETTERS.sub("", value.lower())
    if any(word in letters for word in _PLACEHOLDERS) and not _looks_random(value):
        return "is a placeholder; make one with: openssl rand -hex 32"
    if len(value) < PRODUCTION_MIN:
        return (
            f"has {len(value)} characters; production needs at least {PRODUCTION_MIN}"
            " (make one with: openssl rand -hex 32)"
        )
    if len(set(value)) < _FEW:
        return "repeats a few characters; make one with: openssl rand -hex 32"
    return None


def _looks_random(value: str) -> bool:
    """Digits among the letters, and many different characters: a token that holds a word by chance."""
    return len(set(value)) > 20 and sum(c.isdigit() for c in value) >= 4
