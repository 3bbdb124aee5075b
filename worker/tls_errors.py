"""What an error of TLS says of the certificates: the server's, or the client's."""

import ssl
from typing import Final

_OF_CLIENT: Final = ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")
"""Words in the alerts of a server that does not take the client's certificate, or misses it."""

_OF_FILES: Final = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_OR_CRL_FOUND", "BAD_BASE64_DECODE")


def certificate_sentence(error: BaseException, server: str) -> str | None:
    """What is wrong with a certificate, in a sentence; None if the error does not say that.

    A server that refuses the client's certificate says so in an alert, and closes the connection. Where the close
    is seen first, nobody knows why.
    """
    if not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {server} is not accepted: {error.verify_message}"
    reason = error.reason or ""
    _, is_alert, words = reason.partition("_ALERT_")
    if is_alert and any(each in words for each in _OF_CLIENT):
        return f"{server} does not accept the client's certificate: {words.replace('_', ' ').lower()}"
    if error.library in ("PEM", "X509") or reason in _OF_FILES or "PEM lib" in str(error):
        return "a certificate file that the URL names holds no certificate, or a key that does not belong to it"
    return None
