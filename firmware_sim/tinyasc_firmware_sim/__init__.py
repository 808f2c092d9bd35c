"""Boards as data, and later their toolchains and emulators."""

__version__ = "0.1.0"
