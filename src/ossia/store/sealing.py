"""Text that clients keep for the server and can neither read nor change.

What is sealed is compressed if that makes it smaller, and encrypted with AES-256-GCM under a fresh
random nonce; the format and the purpose are authenticated with it:

    "ossia1." + base64url(nonce [12] + ciphertext and tag of (form [1] + data))
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ossia.errors import ConfigError, OssiaError, StartupError

KEY_BYTES = 32
MIN_SECRET = 16  # characters
_PREFIX = "ossia1."
_NONCE_BYTES = 12
_PLAIN = b"\0"
_COMPRESSED = b"\1"
# Cost of guessing a secret: 32 MiB and about 0.1 s a guess, paid once at the start.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 1


class SealError(OssiaError):
    """Not sealed with this key for this purpose, or altered since, or cut."""

    def __init__(self) -> None:
        super().__init__(
            "The sealed text cannot be opened: it was altered or cut, or sealed by a server with "
            "another key; send it exactly as it was received, or leave it out."
        )


class Sealer:
    """Seals and opens with one key. Safe for several threads."""

    def __init__(self, key: bytes) -> None:
        """`key`: 32 random bytes."""
        self._cipher = AESGCM(key)

    @classmethod
    def from_key_file(cls, path: Path) -> Sealer:
        """With the key in this file. A missing file is made; of several processes one makes it.

        Raises:
            StartupError: the file cannot be read or made, or holds no key.
        """
        try:
            if not path.exists():
                _create_key_file(path)
            key = path.read_bytes()
        except OSError as error:
            raise StartupError(
                f"The key file {path} can be neither read nor made ({error.strerror}); name one "
                "in a folder that this user may write to."
            ) from error
        if len(key) != KEY_BYTES:
            raise StartupError(
                f"The key file {path} is damaged: it has {len(key)} bytes instead of {KEY_BYTES}; "
                "restore it, or delete it to have a new key made (what was sealed with the old "
                "one then cannot be opened any more)."
            )
        return cls(key)

    @classmethod
    def from_secret(cls, text: str) -> Sealer:
        """With a key made from a secret that several servers share.

        Raises:
            ConfigError: it is too short.
        """
        if len(text) < MIN_SECRET:
            raise ConfigError(
                f"The secret for sealing has {len(text)} characters; use at least {MIN_SECRET}, "
                "at random."
            )
        key = hashlib.scrypt(
            text.encode("utf-8", "surrogatepass"),
            salt=b"ossia sealing",
            n=_SCRYPT_N,
            r=_SCRYPT_R,
            p=_SCRYPT_P,
            maxmem=2 * 128 * _SCRYPT_N * _SCRYPT_R,
            dklen=KEY_BYTES,
        )
        return cls(key)

    def seal(self, data: bytes, purpose: str) -> str:
        """URL-safe text that `open` takes with the same purpose only."""
        compressed = zlib.compress(data)
        smaller = len(compressed) < len(data)
        content = _COMPRESSED + compressed if smaller else _PLAIN + data
        nonce = os.urandom(_NONCE_BYTES)
        return _PREFIX + _encode(nonce + self._cipher.encrypt(nonce, content, _bound_to(purpose)))

    def open(self, sealed: str, purpose: str) -> bytes:
        """The data that was sealed.

        Raises:
            SealError: it was sealed with another key or purpose, or altered, or cut.
        """
        if not sealed.startswith(_PREFIX):
            raise SealError
        packed = _decode(sealed.removeprefix(_PREFIX))
        nonce, encrypted = packed[:_NONCE_BYTES], packed[_NONCE_BYTES:]
        try:
            content = self._cipher.decrypt(nonce, encrypted, _bound_to(purpose))
        except (InvalidTag, ValueError):  # ValueError: the nonce is cut
            raise SealError from None
        form, data = content[:1], content[1:]
        return zlib.decompress(data) if form == _COMPRESSED else data


def _bound_to(purpose: str) -> bytes:
    return (_PREFIX + purpose).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise SealError from None
    # Base64 can be written in several ways; only ours is unaltered.
    if _encode(data) != text:
        raise SealError
    return data


def _create_key_file(path: Path) -> None:
    """Never seen half-written, and never replaced once it is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster; its key counts
    finally:
        draft.unlink(missing_ok=True)
