"""A listener's certificate: taken over while it is in use, or not at all."""

import contextlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from ambientd.net.server_tls import load_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def certificate(folder: Path, name: str, *, phrase: str | None = None) -> tuple[str, str]:
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    secret = ["-nodes"] if phrase is None else ["-passout", f"pass:{phrase}"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *secret, "-days",
         "1", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


def shown(context: ssl.SSLContext) -> bytes:
    """The certificate that a client gets to see, in a handshake in memory."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = context.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.getpeercert(binary_form=True) or b""


def pem(path: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(path).read_text())


def test_what_cannot_be_used_leaves_the_certificate_in_use_as_it_is(tmp_path: Path) -> None:
    (cert, key), (new, new_key) = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    locked, locked_key = certificate(tmp_path, "third", phrase="a phrase")
    torn = tmp_path / "torn.pem"
    torn.write_text(Path(new).read_text()[:200])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, cert, key)
    for bad_cert, bad_key in (
        (new, key),
        (cert, new_key),
        (str(torn), new_key),
        (new, str(tmp_path / "none")),
        (locked, locked_key),
    ):
        with pytest.raises(OSError, match=r"."):
            load_certificate(context, bad_cert, bad_key)
        assert shown(context) == pem(cert)
    load_certificate(context, new, new_key)
    assert shown(context) == pem(new)
