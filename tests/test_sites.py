from __future__ import annotations

import pytest
import torch

from conftest import make_unet
from t2i_xattn.denoisers.sites import AttentionSite, find_sites, walk_sites


def test_order_place_and_level() -> None:
    found = [(site.place, site.level) for site in find_sites(make_unet())]
    assert found == [
        ("down", 0),
        ("down", 1),
        ("mid", 2),
        *[("up", 1)] * 2,
        *[("up", 0)] * 2,
    ]


def test_names_lead_to_the_modules_and_heads_are_theirs() -> None:
    unet = make_unet(attention_head_dim=(2, 4, 8))
    for site, module in walk_sites(unet):
        assert unet.get_submodule(site.name) is module
        assert site.heads == module.heads
        assert site.name.endswith("attn2" if site.kind == "cross" else "attn1")
    assert [site.heads for site in find_sites(unet)] == [2, 4, 8, 4, 4, 2, 2]


def test_self_attention_is_found_apart() -> None:
    unet = make_unet()
    self_sites = find_sites(unet, "self")
    assert len(self_sites) == len(find_sites(unet)) == 7
    assert all(site.kind == "self" for site in self_sites)


def test_layers_of_sdxl() -> None:
    unet = make_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        use_linear_projection=True,
    )
    levels = [(site.place, site.level) for site in find_sites(unet)]
    assert (
        levels
        == [("down", 1)] * 2
        + [("down", 2)] * 3
        + [("mid", 2)] * 3
        + [("up", 2)] * 6
        + [("up", 1)] * 4
    )


def test_crossing_in_the_first_layer_counts() -> None:
    unet = make_unet(only_cross_attention=True)
    assert any(site.name.endswith("attn1") for site in find_sites(unet))


@pytest.mark.parametrize("latent", [(8, 8), (8, 12), (9, 7), (5, 13)])
def test_size_is_the_number_of_queries_that_the_unet_forms(latent: tuple[int, int]) -> None:
    torch.manual_seed(0)
    unet = make_unet()
    seen: dict[str, int] = {}
    for site, module in walk_sites(unet):
        module.to_q.register_forward_hook(
            lambda _, __, output, name=site.name: seen.update({name: output.shape[1]})
        )
    with torch.no_grad():
        unet(torch.randn(1, 4, *latent), 1, torch.randn(1, 5, 32))
    for site, _ in walk_sites(unet):
        height, width = site.size(*latent)
        assert height * width == seen[site.name], site


def test_halving_rounds_up() -> None:
    site = AttentionSite("x", "cross", "mid", 3, 8)
    assert site.size(9, 64) == (2, 8)
