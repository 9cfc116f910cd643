"""Turning reports and rules into text for people."""
