"""The commands as functions: ``timm_gcp.train``, ``timm_gcp.evaluate`` and ``timm_gcp.predict``."""
