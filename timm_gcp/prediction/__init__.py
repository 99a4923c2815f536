"""Predicts the classes of images: files, folders or images that are open already."""
