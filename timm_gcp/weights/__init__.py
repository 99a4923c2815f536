"""Weights on disk: model folders that timm loads."""
