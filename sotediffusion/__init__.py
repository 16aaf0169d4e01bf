"""SoteDiffusion: from a folder of anime pictures to a served Stable Cascade model."""

__version__ = "0.1.0"
