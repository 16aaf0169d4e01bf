"""Serving: a durable queue of orders, one engine that draws them together step by step, and the doors in front of it."""
