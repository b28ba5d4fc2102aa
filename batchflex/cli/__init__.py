"""The command line: verbs, options, exit codes, progress and logs. The only place that prints."""

from __future__ import annotations
