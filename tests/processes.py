"""Programs that run to their end."""

import subprocess


def completed(*command, **settings):
    """Run a program; return its status and what it printed."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, **settings)
