"""Certificates for tests, made by the program `openssl`."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder of its own: `ca.pem`, and `NAME.pem` and `NAME.key` of what it has issued."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        """Make the folder and the authority's own certificate."""
        folder.mkdir()
        of_authority = "-x509", "-days", "2", "-subj", f"/CN={folder.name}"
        _openssl("req", *of_authority, *KEY, "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
        return cls(folder)

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    def issue(self, name: str, common_name: str, host: str = "", days: int = 2) -> None:
        """Issue a certificate, for a server of this host or for a client. With `days=-1` it has expired."""
        extension = ("-addext", f"subjectAltName=DNS:{host}") if host else ()
        request, key, certificate = [self.folder / f"{name}.{ending}" for ending in ("csr", "key", "pem")]
        _openssl("req", "-subj", f"/CN={common_name}", *extension, *KEY, "-keyout", key, "-out", request)
        signed = "-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-copy_extensions", "copy"
        _openssl("x509", "-req", "-in", request, *signed, "-days", str(days), "-out", certificate)
