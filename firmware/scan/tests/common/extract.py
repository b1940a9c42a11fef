"""Reads mails from stdin and writes what the email package extracts to stdout, both framed.

A frame is its length, four bytes, big end first, and its bytes. Of each leaf come four frames: the
mail's number, the policy and the type as text, the file name, the decoded payload.
"""
import email
import email.policy
import struct
import sys


def frames(data):
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def write(data):
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)


def leaves(mail, policy):
    for part in email.message_from_bytes(mail, policy=policy).walk():
        if part.is_multipart():
            continue
        try:
            payload = part.get_payload(decode=True)
        except Exception:  # Its own failures are no extraction.
            payload = None
        try:
            name = part.get_filename() or ""
        except Exception:
            name = ""
        try:
            kind = f"{part.get_content_type()} {part.get('content-transfer-encoding', '')}"
        except Exception:
            kind = "?"
        yield kind, name, payload or b""


for number, mail in enumerate(frames(sys.stdin.buffer.read())):
    for label, policy in (("compat32", email.policy.compat32), ("default", email.policy.default)):
        try:
            found = list(leaves(mail, policy))
        except Exception:
            continue
        for kind, name, payload in found:
            write(str(number).encode())
            write(f"{label} {kind}".encode("utf-8", "replace"))
            write(name.encode("utf-8", "replace"))
            write(payload)
