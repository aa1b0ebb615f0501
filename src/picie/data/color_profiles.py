"""Convert colours to sRGB by the ICC profile of an image."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # mode -> colour space of a fitting profile


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image`, of mode RGB, L or CMYK, as RGB in sRGB.

    Without a profile, or with a damaged one or one for another mode, colours are taken as sRGB.
    """
    if profile:
        try:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            described = f"{opened.profile.profile_description or ''}"
            if opened.profile.xcolor_space == _SPACES[image.mode] and "srgb" not in described.lower():
                converted = ImageCms.profileToProfile(image, opened, _SRGB, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")
