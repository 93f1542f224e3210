"""Runs that are started on several processes and machines."""
