"""Shared by all tests: the marks of transformers' shared tests, and when those are collected."""

from transformers_suite import register_markers


def pytest_configure(config):
    register_markers(config)


def pytest_ignore_collect(collection_path, config):
    """Importing test_transformers_*.py fetches a source distribution: only when slow tests are asked for."""
    if collection_path.name.startswith("test_transformers_") and "not slow" in config.option.markexpr:
        return True
    return None
