"""The commands of ``timm-gcp``: one file each, with parser, checks and ``main(argv)``."""
