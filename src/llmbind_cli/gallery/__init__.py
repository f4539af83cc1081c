"""A static page of what an output folder holds: pictures, clips and sounds with their prompts."""

from __future__ import annotations

from llmbind_cli.gallery.page import write_gallery

__all__ = ["write_gallery"]
