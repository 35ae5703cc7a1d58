"""A certificate authority for a test or a drill, and the certificates and keys that it makes."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


class Authority:
    """Signs for a day. Its own certificate is `ca.crt` in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("drill's authority")
        mine = _begun(self._name, self._name, self._key.public_key())
        signed = mine.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        signed = signed.add_extension(_usage(signs_certificates=True), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        signed = signed.add_extension(identifier, critical=False)
        self._identifier = identifier
        self.certificate = folder / "ca.crt"
        _write(self.certificate, signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, addresses: list[str]) -> tuple[Path, Path]:
        """Return the files of a server's certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _begun(_name(name), self._name, key.public_key())
        made = made.add_extension(_names(addresses), critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_usage(signs_certificates=False), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        made = made.add_extension(issuer, critical=False)
        certificate, file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        _write(certificate, made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        _write(file, _pem(key))
        return certificate, file

    def make_key(self, name: str) -> Path:
        """Return the file of a key that signs the tokens of service accounts."""
        file = self._folder / f"{name}.key"
        _write(file, _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
        return file


def self_signed(folder: Path, address: str) -> tuple[Path, Path]:
    """Return the files of a certificate that nobody else vouches for, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _begun(_name(address), _name(address), key.public_key()).add_extension(_names([address]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate, file = folder / "certificate.pem", folder / "key.pem"
    _write(certificate, made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write(file, _pem(key))
    return certificate, file


def _names(addresses: list[str]) -> x509.SubjectAlternativeName:
    names = [x509.DNSName(each) for each in addresses if not _is_ip(each)]
    ips = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses if _is_ip(each)]
    return x509.SubjectAlternativeName([*names, *ips])


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    made = made.serial_number(x509.random_serial_number())
    return made.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=1))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _is_ip(text: str) -> bool:
    return text.replace(".", "").isdigit()


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption())


def _write(file: Path, content: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(content)
