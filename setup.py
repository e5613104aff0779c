"""For Beam's --setup_file, which ships this package to the workers; everything is in pyproject.toml."""

from setuptools import setup

setup()
