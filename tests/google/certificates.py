"""A throw-away certificate authority, valid for a day."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_VALID = datetime.timedelta(days=1)
_CLOCKS_DIFFER = datetime.timedelta(hours=1)


class Authority:
    """Issues certificates of hosts; ``bundle`` is the PEM file for whoever shall trust them.

    The bundle holds the usual authorities too, so that connections to other hosts are judged as ever.
    """

    def __init__(self, folder: Path) -> None:
        import certifi
        from cryptography.hazmat.primitives.asymmetric import ec

        self.bundle = folder / "authorities.pem"
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _signed("Authority of a test", self._key, None, self._key, [])
        self.bundle.write_bytes(_pem(self._certificate) + Path(certifi.where()).read_bytes())

    def issue(self, *hosts: str) -> Path:
        """Makes a PEM file with a key and its certificate for these hosts."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(hosts[0], key, self._certificate, self._key, list(hosts))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._folder / f"{hosts[0]}.pem"
        path.write_bytes(secret + _pem(certificate))
        return path


def _signed(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    hosts: list[str],
) -> x509.Certificate:
    """A certificate of ``hosts`` by ``issuer``; an authority's own where there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # A common name is no longer than 64; which hosts it is for, the alternative names say.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name[:64])])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer.subject if issuer else subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        # Strict verifiers (Python 3.13's default) ask for the two key identifiers and for what the key may do.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(_usage(signs_certificates=issuer is None), critical=True)
    )
    if issuer is not None:
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
