"""Runs as pages for people: gathered from their folders, written into one file or served while they train."""
