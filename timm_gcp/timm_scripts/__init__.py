"""timm's own scripts with our models and the hybrid protocol: what ``timm-gcp wrap`` runs."""
