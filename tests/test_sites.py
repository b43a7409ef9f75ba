from __future__ import annotations

from typing import Any

import pytest
import torch

from captured import size_of
from conftest import make_unet
from t2i_xattn.denoisers.call import Grid
from t2i_xattn.denoisers.families import family_of
from t2i_xattn.denoisers.sites import AttentionSite, choose_sites, find_sites, walk_sites
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import KernelCall


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


def test_depth_counts_the_sites_of_a_kind() -> None:
    unet = make_unet(only_cross_attention=True)
    for kind in ("cross", "self"):
        found = [site.depth for site, _ in walk_sites(unet) if site.kind == kind]
        assert found == list(range(len(found)))
    assert [site.depth for site in find_sites(unet)][-1] > 7


@pytest.mark.parametrize("latent", [(8, 8), (8, 12), (9, 7), (5, 13), (1, 64)])
def test_the_grid_is_that_of_the_queries_which_the_unet_forms(latent: tuple[int, int]) -> None:
    """Each halving rounds up."""
    torch.manual_seed(0)
    unet = make_unet()
    seen: dict[str, int] = {}
    for site, module in walk_sites(unet):
        attn: Any = module
        attn.to_q.register_forward_hook(
            lambda _, __, output, name=site.name: seen.update({name: output.shape[1]})
        )
    with torch.no_grad():
        unet(torch.randn(1, 4, *latent), 1, torch.randn(1, 5, 32))
    for site, _ in walk_sites(unet):
        assert grid_of(unet, site, seen[site.name], latent) == (1, *size_of(site, latent)), site


def grid_of(unet: Any, site: AttentionSite, queries: int, latent: tuple[int, int]) -> Grid | None:
    """How the places of a kernel call with so many queries are read to lie."""
    family = family_of(unet)
    assert family is not None
    text = torch.zeros(1, 5, 32)
    given = {"sample": torch.zeros(1, 4, *latent), "timestep": 1, "encoder_hidden_states": text}
    call, module = family.call(unet, given), unet.get_submodule(site.name)
    states, keys = torch.zeros(1, 1, queries, 2), torch.zeros(1, 1, 5, 2)
    kernel = KernelCall(states, keys, keys, states, None, 1.0)
    reading = family.reading(site, module, kernel, 0, call)
    assert (reading.problem is None) == (reading.grid is not None)
    return reading.grid


def test_places_that_fit_no_grid() -> None:
    unet = make_unet()
    for site in find_sites(unet):
        height, width = size_of(site, (8, 12))
        places = height * width
        assert grid_of(unet, site, places, (8, 12)) == (1, height, width)
        # Merged ones, those of another level, and those of a crop.
        for queries in {places // 2, places - 1, places + 1, 4 * places, places // 4}:
            assert grid_of(unet, site, queries, (8, 12)) is None


def test_one_that_is_compiled_is_looked_through() -> None:
    unet = make_unet()
    compiled: Any = torch.compile(unet, backend="eager")
    assert find_sites(compiled) == find_sites(unet)


def test_a_model_of_no_known_family() -> None:
    assert find_sites(torch.nn.Linear(2, 2)) == []


class TestChoice:
    """Names, or a function that says yes or no."""

    SITES = find_sites(make_unet())

    def test_in_their_order(self) -> None:
        names = [site.name for site in self.SITES]
        assert choose_sites(self.SITES, None) == self.SITES
        assert choose_sites(self.SITES, [names[4], names[1]]) == [self.SITES[1], self.SITES[4]]
        assert choose_sites(self.SITES, names[2]) == [self.SITES[2]]
        found = choose_sites(self.SITES, lambda site: site.place == "up" and site.level == 0)
        assert found == self.SITES[-2:]

    @pytest.mark.parametrize(
        ("choice", "sentence"),
        [
            (["mid_block.attn2"], "expected the name of a site, but came 'mid_block.attn2'"),
            (lambda site: False, "the choice leaves none of 7"),
            ([], "the choice leaves none of 7"),
        ],
    )
    def test_mistakes(self, choice: Any, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            choose_sites(self.SITES, choice)
