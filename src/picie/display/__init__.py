"""Colours, overlays and charts."""
