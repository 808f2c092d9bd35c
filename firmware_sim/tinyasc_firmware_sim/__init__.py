"""The firmware simulation: boards, toolchains and emulators. Empty so far."""

__version__ = "0.1.0"
