"""Metrics, and models measured on clips."""
