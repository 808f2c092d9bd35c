"""tinyasc: acoustic scene classifiers that fit a microcontroller."""

__version__ = "0.1.0"
