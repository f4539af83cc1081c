"""Turn a merged LISA checkpoint into a bundle: import_lisa.py SOURCE OUT CLIP [SHA256]."""

from __future__ import annotations

import sys
from pathlib import Path

from llmbind_cli.model.importers.lisa import import_lisa

if __name__ == "__main__":
    source, out, clip, *pin = sys.argv[1:]
    print(
        import_lisa(
            Path(source), Path(out), vision_tower=clip, vision_tower_sha256=pin[0] if pin else None
        )
    )
