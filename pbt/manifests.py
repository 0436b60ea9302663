"""The manifest of a checkpoint, its name, and the errors that say what is wrong with it.

A manifest is the same file in a directory and in an object store. It has the size and the sha256 of
each file of the checkpoint, and a digest of itself.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

FORMAT = 1
FILE_NAME = "manifest.json"
NAME = re.compile(r"(0|[1-9][0-9]{0,8})/(0|[1-9][0-9]{0,8})-([0-9a-f]{16})", re.ASCII)
"""A checkpoint's name: member, version and nonce."""
LIMIT_BYTES = 4_000_000
"""Largest manifest that is read. It has kilobytes, and a hostile one could fill the memory."""
_RESERVED = ("format", "member", "version", "files")


class CheckpointError(Exception):
    """A checkpoint cannot be used. The message names the member, the file and the problem."""


class NotThere(CheckpointError):
    """The checkpoint directory or its disk is not there, so nothing is known to be damaged."""


class Missing(CheckpointError):
    """A part of the checkpoint is not there, though the rest of the run's checkpoints are."""


def new_name(member: int, version: int) -> str:
    """Return a name that no checkpoint has yet.

    Raises:
        ValueError: Member or version is no natural number of at most nine digits.
    """
    name = f"{member}/{version}-{secrets.token_hex(8)}"
    if not NAME.fullmatch(name):
        raise ValueError(f"member {member!r}, version {version!r} are no small natural numbers")
    return name


def any_trained(names: Iterable[str]) -> bool:
    """Return whether any of the names is of a version of a trained member, which is not 0."""
    return any((match := NAME.fullmatch(name)) and match[2] != "0" for name in names)


def check_name(name: str, member: int, version: int) -> None:
    """Raise `CheckpointError` unless this is a name of a checkpoint of the member's version."""
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise CheckpointError(f"member {member}: {name!r} is no name of a checkpoint")
    if (int(match[1]), int(match[2])) != (member, version):
        raise CheckpointError(f"{name} is not a checkpoint of member {member} version {version}")


def check_fields(manifest: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a caller's own fields have a reserved name."""
    if reserved := [name for name in _RESERVED if name in manifest]:
        raise ValueError(f"manifest fields {', '.join(reserved)} are written by publish itself")


def check_row(manifest: Mapping[str, Any], name: str, expected: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless fields that the store's row has too are equal."""
    for field, value in expected.items():
        if field in manifest and manifest[field] != plain(value):
            member, version = manifest["member"], manifest["version"]
            raise CheckpointError(
                f"member {member}: {name}/{FILE_NAME} has {field} {manifest[field]}, but the row "
                f"of member {member} version {version} in the store has {value}"
            )


def plain(value: Any) -> Any:
    """Return a value as JSON returns it."""
    return json.loads(json.dumps(value))


def decode(raw: bytes, where: str, member: int, version: int) -> dict[str, Any]:
    """Check a manifest and return it. Its "files" have "sha256" and "bytes" each."""
    if len(raw) > LIMIT_BYTES:
        raise CheckpointError(f"{where} is larger than {LIMIT_BYTES} bytes")
    try:
        content: dict[str, Any] = json.loads(raw)
        digest = content.pop("digest")
        found = content.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise CheckpointError(
                f"{where} has format {found}, this code reads up to {FORMAT}: update this code"
            )
        is_intact = raw == encode(content)  # the digest is in it, so any changed bit shows
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged: not a manifest") from error
    if not is_intact:
        raise CheckpointError(f"{where} is damaged: its digest is not {digest!r}")
    if (found, content.get("member"), content.get("version")) != (FORMAT, member, version):
        raise CheckpointError(
            f"{where} is of member {content.get('member')!r} version {content.get('version')!r} "
            f"format {found!r}, wanted was version {version}, format {FORMAT}"
        )
    files = content.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{where} lists no files")
    for name, entry in files.items():
        if name in ("", ".", "..", FILE_NAME) or "/" in name or "\0" in name:
            raise CheckpointError(f"{where} names the file {name!r}, which no checkpoint may")
        known = entry if isinstance(entry, dict) else {}
        if not (isinstance(known.get("sha256"), str) and isinstance(known.get("bytes"), int)):
            raise CheckpointError(f"{where} has no digest or size of {name!r}")
    return content


def encode(content: Mapping[str, Any]) -> bytes:
    """Return a manifest's bytes: canonical JSON with a digest of itself.

    Raises:
        ValueError: A value is not JSON, or not finite.
    """

    def text(values: Mapping[str, Any]) -> bytes:
        try:
            # Through JSON twice, because names that are no strings sort differently as strings.
            plain = json.loads(json.dumps(values, allow_nan=False))
            return json.dumps(plain, indent=1, sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"a manifest's values must be finite JSON: {error}") from None

    digest = hashlib.sha256(text(content)).hexdigest()
    return text({**content, "digest": digest}) + b"\n"
