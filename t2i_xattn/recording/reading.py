"""What is done with the kernel calls of one call of a recorded denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.branches import CONDITIONAL
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import (
    BETWEEN,
    CARRIED,
    CONCEPTS,
    CONTRIBUTION,
    EDITED,
    GIVEN_BY,
    LOOKS,
    OTHERS,
    SELF,
    TEXT,
    WALKED,
)
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import attention_probs, carried, head_weights
from t2i_xattn.kernel.call import KernelCall, taken
from t2i_xattn.kernel.modes import without_gradients
from t2i_xattn.kernel.shares import Portion, at_one, of_row, shares_of
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.recording.concepts import ConceptCall
from t2i_xattn.recording.contributions import ContributionCall, finest
from t2i_xattn.recording.modalities import Modalities
from t2i_xattn.recording.site_weights import agreement, reference_affinity, reference_site
from t2i_xattn.recording.store import MapStore

Carry = tuple[Tensor, Tensor, float, tuple[int, int]]
"""Queries and keys of a self-attention, the scale of its scores, and the size of its places."""


class RecordingCall:
    """One call of the denoiser; see `denoisers.registry.Acting`."""

    def __init__(
        self,
        store: MapStore,
        layout: Layout,
        windows: Mapping[str, int],
        partners: Mapping[str, str],
        prefix: str,
        edited: bool,
        skip: bool,
        concepts: ConceptCall | None = None,
        contributions: ContributionCall | None = None,
        modalities: Modalities | None = None,
    ) -> None:
        """
        Args:
            store: where it is kept.
            layout: whose the rows are.
            windows: by branch, the number of the window that it is summed into.
            partners: for each site, the self-attention site of its block.
            prefix: before the names of the denoiser's sites.
            edited: whether edits act on the pipeline, so that maps after them are kept too.
            skip: whether sites that cannot be read are left out.
            concepts: what is done for the maps of concepts.
            contributions: what is done for the contributions of words, in this call.
            modalities: what is done for the parts of text and pictures, in this call.
        """
        self.store, self.layout, self.windows = store, layout, windows
        self.partners, self.prefix = partners, prefix
        self.edited, self.skip, self.concepts = edited, skip, concepts
        self.contributions, self.modalities = contributions, modalities
        keep = store.keep
        self._names = {site.name for site in store.sites}
        self._self_names = {partners[name] for name in self._names if name in partners}
        self._walks = {
            branch: keep.walk > 0 and store.reads_words(branch, number)
            for branch, number in windows.items()
        }
        self._rows = tuple(row for branch in windows for row in layout.rows[branch])
        self._carries: dict[tuple[str, str], Carry] = {}
        self._reference: dict[str, tuple[Tensor, tuple[int, int]]] = {}

    def wants(self, site: AttentionSite) -> bool:
        name = self.prefix + site.name
        return bool(self.windows) and (name in self._names or name in self._self_names)

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        return ()

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        kind = type(getattr(module, "processor", module)).__name__
        way_out = ", or put one there that does with tx.swap(pipe, AttnProcessor2_0(), sites=…)"
        if site.level is None:
            way_out = ', or have it computed by torch: set_attention_backend("native")'
        self._cannot(site, f"{kind} does not call a kernel that can be seen", way_out)

    def take(self, seen: Seen) -> None:
        name = self.prefix + seen.site.name
        # Another recording may want a step that this one does not keep.
        if not self.wants(seen.site) or seen.stream == OTHERS:
            return
        problem = seen.problem_of(self._rows)
        if problem is not None:
            self._cannot(seen.site, problem)
            return
        assert seen.size is not None
        with without_gradients():
            for branch in self.windows:
                # In joint attention the picture looks at itself in the same call.
                if name in self._self_names and seen.stream in (SELF, TEXT):
                    self._take_self(seen, branch, name)
                if seen.site.reads_text and name in self._names:
                    self._take_text(seen, branch, name)

    def end(self) -> None:
        """Takes in what can be told after the whole call only."""
        store = self.store
        with without_gradients():
            if self.contributions is not None and self._walks[CONDITIONAL]:
                self._carry_contributions(self.contributions)
            for branch, (query, size) in self._reference.items():
                affinity = reference_affinity(query)
                for site in store.sites:
                    carry = self._carries.pop((self.partners[site.name], branch), None)
                    if carry is not None:
                        agreed = agreement(*carry, affinity, size)
                        store.weigh(self.windows[branch], branch, site.name, agreed)
        if self.concepts is not None:
            self.concepts.end()
        store.finished += 1

    def _take_text(self, seen: Seen, branch: str, name: str) -> None:
        store, window = self.store, self.windows[branch]
        rows = self.layout.rows[branch]
        assert seen.size is not None
        store.sizes[name] = seen.size
        if self.modalities is not None:
            texts = self.layout.texts[branch]
            pictures = [_columns_of_pictures(t) for t in texts for _ in range(self.layout.frames)]
            for stream, maps in self.modalities.lengths(seen, branch, rows, pictures):
                store.add(window, branch, (GIVEN_BY + stream, name), self._pictures(maps))
        # Heads that nobody asks for one by one need not be there all at once.
        mean_only = self.store.keep.heads == "mean" and not self.edited
        probs = seen.mean_probs(rows) if mean_only else seen.probs(rows)
        if seen.stream != TEXT:
            mean = self._kept(probs, None, None)
            length = mean.shape[-1]
            store.add(
                window,
                branch,
                (seen.stream, name),
                self._pictures(mean),
                (seen.reading.part * length, seen.reading.parts * length),
            )
            return
        chosen = store.selection(branch, TEXT, probs.device)
        weights = self._weights(seen, rows, probs)
        kept = self._kept(probs, weights, chosen)
        store.add(window, branch, (TEXT, name), self._pictures(kept))
        if self.edited:
            after = seen.edited(rows)
            kept_after = kept if after is probs else self._kept(after, weights, chosen)
            store.add(window, branch, (EDITED, name), self._pictures(kept_after))
        if store.keep.text_looks:
            self._take_looks(seen, branch, name)
        if self.concepts is not None and branch == CONDITIONAL:
            later = partial(store.add, window, branch, (CONCEPTS, name))
            shares = self.concepts.shares(seen, rows, later)
            if shares is not None:
                later(self._pictures(self._kept(shares, weights, None)))
        if self.contributions is not None and branch == CONDITIONAL:
            maps = self.contributions.maps(seen, rows)
            store.add(window, branch, (CONTRIBUTION, name), self._pictures(maps))
        if store.keep.heads == "auto" and name == self._reference_name():
            self._reference[branch] = (taken(seen.kernel.query, rows), seen.size)
        if self._walks[branch]:
            carry = self._carries.get((self.partners.get(name, ""), branch))
            if carry is not None:
                columns = store.selection(branch, WALKED, probs.device)
                mean = probs.mean(dim=1, keepdim=True)
                if columns is not None:
                    mean = self._selected(mean, columns)
                walked = carried(*carry[:3], seen.by_picture(mean), store.keep.walk)
                walked = self._pictures(seen.by_frame(walked))
                store.add(window, branch, (WALKED, name), walked)

    def _carry_contributions(self, contributions: ContributionCall) -> None:
        """Their mean over the sites, carried along the self-attention of the finest."""
        carries = {
            site.name: self._carries[self.partners[site.name], CONDITIONAL]
            for site in self.store.sites
            if (self.partners[site.name], CONDITIONAL) in self._carries
        }
        window, steps = self.windows[CONDITIONAL], self.store.keep.walk
        if not carries:  # a cache has skipped all of these blocks
            return
        for name in finest([site for site in self.store.sites if site.name in carries], carries):
            query, key, scale, size = carries[name]
            maps = carried(query, key, scale, contributions.together(size), steps)
            self.store.add(window, CONDITIONAL, (CARRIED, name), self._pictures(maps))

    def _take_looks(self, seen: Seen, branch: str, name: str) -> None:
        """What the text's tokens look at, in joint attention."""
        portion, rows = seen.reading.portion, self.layout.rows[branch]
        if portion is None or portion.text_queries is None:
            return
        for stream, keys in ((LOOKS, portion.own_keys), (BETWEEN, portion.keys)):
            shares = shares_of(seen.kernel, rows, portion.text_queries, keys)
            if self.store.keep.heads != "each":
                shares = shares.mean(dim=1, keepdim=True)
            if stream == LOOKS:
                shares = shares.transpose(-1, -2)  # a place of the picture, a token
            self.store.add(self.windows[branch], branch, (stream, name), shares)

    def _take_self(self, seen: Seen, branch: str, partner: str) -> None:
        keep, rows = self.store.keep, self.layout.rows[branch]
        query, key = seen.own_queries_and_keys(rows)
        assert seen.size is not None
        if self._walks[branch] or keep.heads == "auto":
            self._carries[partner, branch] = (query, key, seen.kernel.scale, seen.size)
        if keep.self_attention is None:
            return
        looks = self._looks(seen, rows, query, key)
        if seen.frames == 1:
            looks = self._pictures(looks)
        for name in self._names:
            if self.partners.get(name) == partner:
                self.store.sizes[name] = seen.size
                self.store.add(self.windows[branch], branch, (SELF, name), looks)

    def _looks(self, seen: Seen, rows: Rows, query: Tensor, key: Tensor) -> Tensor:
        """Where chosen places look, fp32 `(rows, heads, keys, places)`."""
        keep, kernel = self.store.keep, seen.kernel
        assert seen.size is not None
        places = keep.queries(seen.size)
        if seen.reading.portion is not None:
            return self._looks_beside_text(kernel, rows, seen.reading.portion, places)
        mask = kernel.mask_of(rows)
        if places is not None:
            query = query[:, :, places]
            if mask is not None and mask.shape[2] > 1:
                mask = mask[:, :, places]
        total: list[Tensor] = []
        # One head at a time, since all of a large matrix would not fit.
        for head in range(query.shape[1]):
            one = slice(head, head + 1)
            of_head = mask if mask is None or mask.shape[1] == 1 else mask[:, one]
            probs = attention_probs(query[:, one], key[:, one], kernel.scale, of_head)
            looks = probs.transpose(-1, -2)
            if keep.heads == "each" or not total:
                total.append(looks)
            else:
                total[0] = total[0] + looks
        if keep.heads == "each":
            return torch.cat(total, dim=1)
        return total[0] / query.shape[1]

    def _looks_beside_text(
        self, kernel: KernelCall, rows: Rows, portion: Portion, places: Sequence[int] | None
    ) -> Tensor:
        """The same, of a kernel call that has the text's keys too: of the attention to all keys."""
        asked = range(len(of_row(portion.queries, rows[0]))) if places is None else places
        total = []
        for place in asked:
            one = at_one(portion.queries, place)
            shares = shares_of(kernel, rows, one, portion.own_keys).transpose(-1, -2)
            total.append(shares if self.store.keep.heads == "each" else shares.mean(1, True))
        return torch.cat(total, dim=-1)

    def _kept(self, probs: Tensor, weights: Tensor | None, chosen: Tensor | None) -> Tensor:
        """The heads and tokens of `(rows, heads, queries, tokens)` that are kept."""
        if weights is not None:
            probs = (probs * weights[..., None]).sum(dim=1, keepdim=True)
        elif self.store.keep.heads != "each" and probs.shape[1] > 1:
            probs = probs.mean(dim=1, keepdim=True)
        return probs if chosen is None else self._selected(probs, chosen)

    def _weights(self, seen: Seen, rows: Rows, probs: Tensor) -> Tensor | None:
        if self.store.keep.heads != "auto":
            return None
        return head_weights(probs, taken(seen.kernel.value, rows), seen.module.to_out[0])

    def _selected(self, probs: Tensor, chosen: Tensor) -> Tensor:
        """The kept columns; each picture has its own, for all of its frames."""
        of_rows = chosen.repeat_interleave(self.layout.frames, dim=0)
        return torch.matmul(probs, of_rows[:, None])

    def _pictures(self, maps: Tensor) -> Tensor:
        """`(images · frames, heads, queries, kept)` to `(images, heads, frames · queries, …)`."""
        if self.layout.frames == 1:
            return maps
        parted = maps.unflatten(0, (self.layout.images, self.layout.frames))
        return parted.transpose(1, 2).flatten(2, 3)

    def _reference_name(self) -> str:
        keep, sites = self.store.keep, self.store.sites
        named = [site for site in sites if site.name == keep.reference]
        return (named[0] if named else reference_site(sites)).name

    def _cannot(self, site: AttentionSite, problem: str, way_out: str = "") -> None:
        """A site cannot be read.

        Raises:
            UserError: unless such sites are to be left out.
        """
        name = self.prefix + site.name
        if not self.skip:
            wanted = f"attention over the text at {name}"
            out = 'leave such sites out with sites=… or unrecordable="skip"'
            if site.kind == "self":
                wanted = f"self-attention of whole pictures at {name}"
                out = 'leave such sites out with unrecordable="skip", or read without it (walk=0)'
            raise UserError(f"expected {wanted}, but {problem}; {out}{way_out}")
        if site.reads_text:
            for each in [each for each in self.store.sites if each.name == name]:
                self.store.leave_out(each)
            self._names.discard(name)


def _columns_of_pictures(text: Text | None) -> tuple[int, ...]:
    """The columns of pictures among a text's."""
    words = () if text is None else text.words
    return tuple(c for word in words if word.source == "picture" for c in word.columns)
