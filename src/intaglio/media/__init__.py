"""Kinds of media: one file each, that parses by content, writes and makes previews; no file's name is trusted."""

from __future__ import annotations


class Unreadable(Exception):
    """This content cannot be read; the message is the reason, written for people (no file name in it)."""
