"""The tests: a folder for each package that they test, and some that go across (`test_house.py: ACROSS`)."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
