"""Tiles of a high-resolution picture put back in their places (LLaVA-1.6's ``spatial`` and ``spatial_unpad``)."""

import torch
from einops import rearrange
from torch import Tensor


def unpad_image(tensor: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Cut the padding off a feature map ``[D, H, W]`` of a picture that was ``original_size`` = (width, height)."""
    width, height = original_size
    map_height, map_width = tensor.shape[1:]
    if width / height > map_width / map_height:  # the picture was wider: bands above and below
        band = (map_height - int(height * (map_width / width))) // 2
        return tensor[:, band : map_height - band, :]
    band = (map_width - int(width * (map_height / height))) // 2
    return tensor[:, :, band : map_width - band]


def arrange_tiles(
    features: Tensor, grid: tuple[int, int], side: int, image_size: tuple[int, int], newline: Tensor | None
) -> Tensor:
    """Features of one picture and its tiles ``[1 + P, side * side, D]`` as one row of tokens ``[n, D]``.

    Args:
        features: the whole picture first, then its tiles row by row; P = 0 means there are none.
        grid: (columns, rows) of tiles.
        side: patches per side of one tile.
        image_size: (width, height) of the picture in pixels.
        newline: ``[D]``, put at the end of every row of the unpadded map; None keeps the full map without.
    """
    whole, tiles = features[0], features[1:]
    if len(tiles) == 0:
        return whole if newline is None else torch.cat([whole, newline.unsqueeze(0).to(whole)])
    columns, rows = grid
    if newline is None:
        spread = rearrange(tiles, "(R C) (h w) d -> (R h C w) d", R=rows, C=columns, h=side, w=side)
        return torch.cat([whole, spread])
    feature_map = rearrange(tiles, "(R C) (h w) d -> d (R h) (C w)", R=rows, C=columns, h=side, w=side)
    feature_map = unpad_image(feature_map, image_size)
    line_end = newline.to(feature_map).reshape(-1, 1, 1).expand(-1, feature_map.shape[1], 1)
    feature_map = torch.cat([feature_map, line_end], dim=2)
    return torch.cat([whole, rearrange(feature_map, "d h w -> (h w) d")])
