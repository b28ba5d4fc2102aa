"""What is wrong with a file that a row names."""

from __future__ import annotations


class FileFault(Exception):
    """A file that cannot be sent; the text is a sentence that does not name it, to follow its name."""
