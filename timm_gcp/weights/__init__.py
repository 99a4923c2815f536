"""Pretrained weights: finds, downloads, converts and reads their files."""
