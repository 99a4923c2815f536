"""Training and evaluation: the hybrid protocol, its monitor, and the commands ``train``, ``validate`` and ``demo``."""
