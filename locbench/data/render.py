"""Draws the pixels of Shapes from its scenes, many images at once, at any resolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from locbench.data.scenes import TEXTURES, Scenes, Textures, radial

SUPERSAMPLE = 2  # points a pixel, along each side


def _hash(x: np.ndarray, y: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """A random-looking uint32 for every integer cell (x, y); wraps around on purpose."""
    value = x.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    value = value ^ (y.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA77) + seed)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x2C1B3C6D)
    value ^= value >> np.uint32(12)
    value *= np.uint32(0x297A2D39)
    return value ^ (value >> np.uint32(15))


def _blobs(u: np.ndarray, v: np.ndarray, duty: np.ndarray, seed: np.ndarray) -> np.ndarray:
    total = np.zeros_like(u)
    for wave in range(4):
        turn = (seed * np.uint32(wave + 1) % np.uint32(997)).astype(np.float32) * (2 * np.pi / 997)
        along = u * np.cos(turn) + v * np.sin(turn)
        total += np.cos((2 * np.pi) * along * (0.6 + 0.2 * wave) + 5 * turn)
    return total > 3 * (0.5 - duty)


def _cells(u: np.ndarray, v: np.ndarray, duty: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return _hash(np.floor(1.6 * u), np.floor(1.6 * v), seed) < (duty * 2**32).astype(np.uint32)


# Where a texture shows its first colour, by coordinates in periods.
_FIELDS: dict[str, Callable[..., np.ndarray]] = {
    "stripes": lambda u, v, duty, seed: u % 1 < duty,
    "checker": lambda u, v, duty, seed: (u % 1 < duty) ^ (v % 1 < duty),
    "blobs": _blobs,
    "grid": lambda u, v, duty, seed: (u % 1 < 0.5 * duty) | (v % 1 < 0.5 * duty),
    "zigzag": lambda u, v, duty, seed: (u + 0.9 * np.abs(v * 0.7 % 1 - 0.5)) % 1 < duty,
    "dots": lambda u, v, duty, seed: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.22 * duty,
    "rings": lambda u, v, duty, seed: np.sqrt(u * u + v * v) % 1 < duty,
    "bricks": lambda u, v, duty, seed: (
        (v % 1 < 0.45 * duty) | ((u * 0.6 + 0.5 * np.floor(v)) % 1 < 0.3 * duty)
    ),
    "cells": _cells,
    "triangles": lambda u, v, duty, seed: u % 1 + v % 1 < 2 * duty,
}


def _first_color(texture: Textures, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where M textures show their first colour: bool [M, P, Q] at points x, y of that shape."""
    first = np.empty(x.shape, bool)
    for kind, name in enumerate(TEXTURES):
        chosen = np.flatnonzero(texture.kind == kind)
        if len(chosen):
            first[chosen] = _field(name, texture[chosen], x[chosen], y[chosen])
    return first


def _field(name: str, texture: Textures, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def wide(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, None, None]

    cos = wide(np.cos(texture.angle) / texture.period)
    sin = wide(np.sin(texture.angle) / texture.period)
    u = x * cos + y * sin + wide(texture.phase[:, 0])
    v = y * cos - x * sin + wide(texture.phase[:, 1])
    return _FIELDS[name](u, v, wide(texture.duty), texture.seed[:, None, None])


def _draw_objects(canvas: np.ndarray, scenes: Scenes, item: int) -> None:
    """Object `item` of every scene that has one, over what `canvas` [N, S, S] holds."""
    side = canvas.shape[1]
    holders = np.flatnonzero(scenes.count > item)
    reach = np.ceil(scenes.radius[holders, item] * side).astype(int)
    # Of one size at a time, rounded up to a fifth of the picture: what is outside costs nothing.
    steps = -(-reach // -(-side // 10))
    for step in np.unique(steps):
        _draw_alike(canvas, scenes, item, holders[steps == step], step * -(-side // 10))


def _draw_alike(
    canvas: np.ndarray, scenes: Scenes, item: int, rows: np.ndarray, reach: int
) -> None:
    """Object `item` of the scenes `rows`, none of which reaches further than `reach` points."""
    side = canvas.shape[1]
    centre = scenes.centre[rows, item] * side
    axis = np.floor(centre).astype(int)[..., None] + np.arange(-reach, reach + 1)  # [M, 2, P]
    delta = ((axis + 0.5 - centre[..., None]) / side).astype(np.float32)
    dx, dy = np.broadcast_arrays(delta[:, 0, None, :], delta[:, 1, :, None])
    turn = scenes.rotation[rows, item].astype(np.float32)[:, None, None]
    length = radial(scenes.outline[rows, item], np.arctan2(dy, dx) - turn)
    length *= scenes.radius[rows, item].astype(np.float32)[:, None, None]
    within = (axis >= 0) & (axis < side)
    inside = (dx * dx + dy * dy < length * length) & within[:, 0, None, :] & within[:, 1, :, None]
    first = _first_color(scenes.surface[rows, item], dx, dy)
    place = (rows[:, None] * side + axis[:, 1])[:, :, None] * side + axis[:, 0][:, None, :]
    canvas.reshape(-1)[place[inside]] = 2 * (item + 1) + ~first[inside]


def _noise(scenes: Scenes, resolution: int) -> np.ndarray:
    """Sensor noise [N, R, R, 3], uniform in [-1, 1]."""
    place = np.arange(resolution * resolution * 3).reshape(1, resolution, resolution, 3)
    value = _hash(place, place * 0, scenes.noise[:, None, None, None])
    return value.astype(np.float32) * np.float32(2 / 2**32) - 1


def label_map(scenes: Scenes, side: int) -> np.ndarray:
    """What each point shows, uint8 [N, side, side]: 2 k + (0 or 1) is a colour of object k - 1."""
    axis = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    x, y = np.broadcast_arrays(axis[None, None, :], axis[None, :, None])
    shape = (len(scenes), side, side)
    first = _first_color(scenes.background, np.broadcast_to(x, shape), np.broadcast_to(y, shape))
    canvas = (~first).astype(np.uint8)
    for item in range(int(scenes.count.max(initial=0))):
        _draw_objects(canvas, scenes, item)
    return canvas


def render(scenes: Scenes, resolution: int, noise: float) -> np.ndarray:
    """Images uint8 [N, 3, resolution, resolution] of N scenes; `noise` in units of full scale."""
    side = SUPERSAMPLE * resolution
    ground, objects = scenes.background.colors[:, None], scenes.surface.colors
    palette = np.concatenate([ground, objects], axis=1).astype(np.float32)  # [N, 1 + K, 2, 3]
    palette = palette.reshape(-1, 3)
    each = len(palette) // len(scenes)
    place = label_map(scenes, side) + (each * np.arange(len(scenes)))[:, None, None]
    corners = [(i, j) for i in range(SUPERSAMPLE) for j in range(SUPERSAMPLE)]
    pixels = sum(palette[place[:, i::SUPERSAMPLE, j::SUPERSAMPLE]] for i, j in corners)
    ramp = ((2 * np.arange(resolution) + 1) / resolution - 1).astype(np.float32)
    shade = scenes.shade.astype(np.float32)
    light = 1 + shade[:, 0, None, None] * ramp + shade[:, 1, None, None] * ramp[:, None]
    pixels *= (light / len(corners))[..., None]
    pixels += np.float32(noise) * _noise(scenes, resolution)
    pixels = np.clip(pixels * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
