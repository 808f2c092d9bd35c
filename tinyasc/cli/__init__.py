"""The commands: one thin file each, loaded only when called."""
