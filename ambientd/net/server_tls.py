"""Certificates of a listener that speaks TLS."""

import ssl


def load_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Gives a context its certificate and key, also while it is in use. Raises OSError; what the context had
    is kept then. Blocks for the files.
    """
    # A context takes the certificate before it looks at the key, and has none of the two left when they do
    # not fit: whoever writes one file after the other would end all TLS. So another one looks first.
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
    _load(context, cert, key)


def _load(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    # Without a word a key with a pass phrase would ask the terminal, and hold up everything.
    context.load_cert_chain(cert, key, password="")
