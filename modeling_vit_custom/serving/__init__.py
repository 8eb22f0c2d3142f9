"""Serving: a demo page and an HTTP server for a saved classifier."""
