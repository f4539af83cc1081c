"""Sprites: the drawn looks of things, one square picture with transparency each."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.errors import InputDataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

_CACHED = 16_384
"""Most painted sprites kept in memory: 256 MiB of them at 64 px; painting one takes longer than
drawing a scene."""


class Sprites:
    """Sprites by code point.

    Args:
        codes: Code points, as in `Thing.codes`.
        pictures: [N, S, S, 4] uint8 RGBA, straight alpha, in the order of ``codes``.

    Raises:
        ValueError: The shapes do not fit.
    """

    def __init__(self, *, codes: tuple[str, ...], pictures: NDArray[np.uint8]) -> None:
        if pictures.ndim != 4 or pictures.shape[0] != len(codes) or pictures.shape[3] != 4:
            raise ValueError(
                f"pictures must be [{len(codes)}, S, S, 4], got {list(pictures.shape)}"
            )
        self.codes = codes
        self.pictures = pictures
        self._index = {code: index for index, code in enumerate(codes)}
        self.painted = functools.lru_cache(maxsize=_CACHED)(self._painted)

    def __contains__(self, code: str) -> bool:
        """Whether there is a sprite for a code point."""
        return code in self._index

    def __getitem__(self, code: str) -> NDArray[np.uint8]:
        """[S, S, 4] uint8 RGBA of a code point.

        Raises:
            KeyError: There is no sprite for it.
        """
        picture: NDArray[np.uint8] = self.pictures[self._index[code]]
        return picture

    @property
    def size_px(self) -> int:
        """Width and height of every sprite."""
        return int(self.pictures.shape[1])

    def scaled(self, size_px: int) -> Sprites:
        """Return smaller sprites, which make smaller scenes faster to draw."""
        import numpy as np
        from PIL import Image

        def small(picture: NDArray[np.uint8]) -> Image.Image:
            return Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.BOX)

        pictures = np.stack([np.asarray(small(picture)) for picture in self.pictures])
        return Sprites(codes=self.codes, pictures=pictures)

    def _painted(self, code: str, colour: str | None) -> Image.Image:
        """A sprite in a named colour, or its own, ready to be placed."""
        from PIL import Image

        from llmbind_cli.data.scenes.recolour import recolour

        picture = self[code]
        return Image.fromarray(picture if colour is None else recolour(picture, colour))

    @classmethod
    def load(cls, path: Path) -> Sprites:
        """Read a sheet that ``tools/embedded_generator/render.py`` wrote.

        Raises:
            InputDataError: The file is not such a sheet.
        """
        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as sheet:
                codes = tuple(str(code) for code in sheet["codes"])
                return cls(codes=codes, pictures=sheet["pictures"])
        except (OSError, KeyError, ValueError) as error:
            raise InputDataError(f"{path}: is no sheet of sprites: {error}") from error
