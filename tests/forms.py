"""Every form of the contrastive rules that LoCo's Tables 4 and 5 and our own table have."""

from __future__ import annotations

from typing import Any

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("simclr", {"decoder_blocks": 1}),
    ("simclr", {"decoder": "stage", "mlp_layers": 4}),
    ("gim", {"decoder_blocks": 1}),
    ("gim", {"decoder_blocks": 1, "decoder_downsampling": False}),
    ("gim", {"decoder_blocks": 2}),
    ("gim", {"decoder": "stage"}),
    ("gim", {"decoder": "network"}),
    ("gim", {"mlp_layers": 4}),
    ("loco", {"sharing": "none"}),
    ("loco", {"sharing": "upper"}),
    ("loco", {"sharing": "penalty", "penalty": 1e-3}),
    ("loco", {"sharing": "blocks", "shared_blocks": 1}),
    ("loco", {"sharing": "blocks", "shared_blocks": 2}),
    ("loco", {"unit_stages": 1}),
    ("loco", {"unit_stages": 3}),
    ("loco", {"unit_stages": 3, "sharing": "upper", "decoder": "stage"}),
]


def form_name(value: Any) -> str | None:
    """A form as the name of a test."""
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None
