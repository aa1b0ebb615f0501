"""The backbones that `picie list backbones` shows: short names for weights on timm's hub.

Every other timm model can be named as timm does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A backbone with its weights.

    Attributes:
        timm: the timm model, with the tag of its weights.
        about: what it is, in a few words.
        licence: the licence of the weights, as timm's hub states it.
        millions: number of parameters of the feature extractor, in millions.
        strides: pixels per cell of each level, fine to coarse.
        channels: number of channels of each level.
    """

    timm: str
    about: str
    licence: str
    millions: float
    strides: tuple[int, ...]
    channels: tuple[int, ...]

    @property
    def megabytes(self) -> int:
        """Size of its weights in float32, in MB."""
        return round(4 * self.millions)

    @property
    def is_vit(self) -> bool:
        """Whether it gives patch tokens, at one stride."""
        return len(self.strides) == 1


def _vit(timm: str, about: str, licence: str, millions: float, patch_and_channels: tuple[int, int]) -> Known:
    patch, channels = patch_and_channels
    return Known(timm, about, licence, millions, (patch,), (channels,))


def _pyramid(timm: str, about: str, licence: str, millions: float, channels: tuple[int, int, int, int]) -> Known:
    return Known(timm, about, licence, millions, (4, 8, 16, 32), channels)


_APACHE, _DINOV3, _EUPE = "apache-2.0", "dinov3-license", "fair-noncommercial-research-license"
_RADIO, _FASTVIT = "nvidia-open-model-license", "fastvit-license"

SHIPPED = "tf_efficientnet_lite0"  # its weights are installed with picie

VIEW_CELLS = 28  # per side of a ViT's views, unless views.size is given: 448 px at 16 px per cell

KNOWN = {
    SHIPPED: _pyramid(
        "tf_efficientnet_lite0.in1k", "the default; ImageNet; weights installed with picie", _APACHE, 3.0, (24, 40, 112, 320)
    ),
    "resnet18": _pyramid("resnet18.a1_in1k", "ImageNet", _APACHE, 11.2, (64, 128, 256, 512)),
    "resnet34": _pyramid("resnet34.a1_in1k", "ImageNet", _APACHE, 21.3, (64, 128, 256, 512)),
    "resnet50": _pyramid("resnet50.a1_in1k", "ImageNet", _APACHE, 23.5, (256, 512, 1024, 2048)),
    "efficientnet_b0": _pyramid("efficientnet_b0.ra_in1k", "ImageNet", _APACHE, 3.6, (24, 40, 112, 320)),
    "mobilenetv4-s": _pyramid(
        "mobilenetv4_conv_small.e2400_r224_in1k", "MobileNetV4, ImageNet; fast on phones", _APACHE, 1.3, (32, 64, 96, 960)
    ),
    "mobilenetv4-m": _pyramid(
        "mobilenetv4_conv_medium.e250_r384_in12k", "MobileNetV4, ImageNet-12k", _APACHE, 7.2, (48, 80, 160, 960)
    ),
    "fastvit-t8": _pyramid("fastvit_t8.apple_dist_in1k", "FastViT, ImageNet", _FASTVIT, 3.2, (48, 96, 192, 384)),
    "fastvit-sa12": _pyramid("fastvit_sa12.apple_dist_in1k", "FastViT, ImageNet", _FASTVIT, 10.4, (64, 128, 256, 512)),
    "convnext_atto": _pyramid("convnext_atto.d2_in1k", "ConvNeXt, ImageNet", _APACHE, 3.4, (40, 80, 160, 320)),
    "convnext_tiny": _pyramid(
        "convnext_tiny.in12k_ft_in1k", "ConvNeXt, ImageNet-12k and ImageNet", _APACHE, 27.8, (96, 192, 384, 768)
    ),
    "dinov3-convnext-t": _pyramid(
        "convnext_tiny.dinov3_lvd1689m", "DINOv3 in a ConvNeXt, no labels", _DINOV3, 27.8, (96, 192, 384, 768)
    ),
    "dinov3-convnext-s": _pyramid(
        "convnext_small.dinov3_lvd1689m", "DINOv3 in a ConvNeXt, no labels", _DINOV3, 49.5, (96, 192, 384, 768)
    ),
    "dinov3-convnext-b": _pyramid(
        "convnext_base.dinov3_lvd1689m", "DINOv3 in a ConvNeXt, no labels", _DINOV3, 87.6, (128, 256, 512, 1024)
    ),
    "eupe-convnext-t": _pyramid(
        "convnext_tiny.eupe_lvd1689m", "EUPE in a ConvNeXt: several teachers", _EUPE, 27.8, (96, 192, 384, 768)
    ),
    "eupe-convnext-s": _pyramid(
        "convnext_small.eupe_lvd1689m", "EUPE in a ConvNeXt: several teachers", _EUPE, 49.5, (96, 192, 384, 768)
    ),
    "vit_tiny_patch16_224": _vit(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ImageNet-21k and ImageNet", _APACHE, 5.5, (16, 192)
    ),
    "dinov2-s": _vit("vit_small_patch14_dinov2.lvd142m", "DINOv2, no labels", _APACHE, 22.1, (14, 384)),
    "dinov2-b": _vit("vit_base_patch14_dinov2.lvd142m", "DINOv2, no labels", _APACHE, 86.6, (14, 768)),
    "dinov2-l": _vit("vit_large_patch14_dinov2.lvd142m", "DINOv2, no labels", _APACHE, 304.4, (14, 1024)),
    "dinov2-s-reg": _vit("vit_small_patch14_reg4_dinov2.lvd142m", "DINOv2 with registers", _APACHE, 22.1, (14, 384)),
    "dinov2-b-reg": _vit("vit_base_patch14_reg4_dinov2.lvd142m", "DINOv2 with registers", _APACHE, 86.6, (14, 768)),
    "dinov2-l-reg": _vit("vit_large_patch14_reg4_dinov2.lvd142m", "DINOv2 with registers", _APACHE, 304.4, (14, 1024)),
    "dinov3-s": _vit("vit_small_patch16_dinov3.lvd1689m", "DINOv3, no labels", _DINOV3, 21.6, (16, 384)),
    "dinov3-s-plus": _vit("vit_small_plus_patch16_dinov3.lvd1689m", "DINOv3, no labels", _DINOV3, 28.7, (16, 384)),
    "dinov3-b": _vit("vit_base_patch16_dinov3.lvd1689m", "DINOv3, no labels", _DINOV3, 85.6, (16, 768)),
    "dinov3-l": _vit("vit_large_patch16_dinov3.lvd1689m", "DINOv3, no labels", _DINOV3, 303.1, (16, 1024)),
    "dinov3-l-sat": _vit("vit_large_patch16_dinov3.sat493m", "DINOv3 of satellite images", _DINOV3, 303.1, (16, 1024)),
    "siglip2-b": _vit("vit_base_patch16_siglip_384.v2_webli", "SigLIP 2: images and texts", _APACHE, 86.1, (16, 768)),
    "tipsv2-b": _vit("vit_base_patch14_reg1_tipsv2.webli", "TIPSv2: images and texts", _APACHE, 86.3, (14, 768)),
    "pe-spatial-t": _vit("vit_pe_spatial_tiny_patch16_512.fb", "Perception Encoder, for dense tasks", _APACHE, 5.7, (16, 192)),
    "pe-spatial-s": _vit(
        "vit_pe_spatial_small_patch16_512.fb", "Perception Encoder, for dense tasks", _APACHE, 22.0, (16, 384)
    ),
    "pe-spatial-b": _vit("vit_pe_spatial_base_patch16_512.fb", "Perception Encoder, for dense tasks", _APACHE, 86.4, (16, 768)),
    "radio-b": _vit("vit_base_patch16_radio_v3.c_radio", "C-RADIO v3: several teachers", _RADIO, 86.5, (16, 768)),
    "radio-l": _vit("vit_large_patch16_radio_v3.c_radio", "C-RADIO v3: several teachers", _RADIO, 304.2, (16, 1024)),
    "eupe-t": _vit("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", "EUPE: several teachers", _EUPE, 5.5, (16, 192)),
    "eupe-s": _vit("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", "EUPE: several teachers", _EUPE, 21.6, (16, 384)),
    "eupe-b": _vit("vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", "EUPE: several teachers", _EUPE, 85.7, (16, 768)),
}
