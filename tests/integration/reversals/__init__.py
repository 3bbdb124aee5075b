"""Exports that are taken back."""
