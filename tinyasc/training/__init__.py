"""Recipes, runs, the Lightning module and distillation."""
