"""Errors that reach the user as one line: what is wrong, where, and how to mend it."""


class TinyascError(Exception):
    """Something failed that is not the user's input; the command exits with 1."""

    exit_code = 1


class InputError(TinyascError):
    """The user's input cannot be used; the command exits with 2."""

    exit_code = 2


class GraphError(TinyascError):
    """A deployed graph that breaks its own rules: a bug in whatever built it."""


class CaptureError(InputError):
    """A module that the deployed graph cannot express; the message names the operator and its module path."""


class ModelFileError(InputError):
    """A model file that cannot be read: not of that kind, damaged, or without the part asked for."""
