"""What the tab Codewords shows, in words and pictures, from what the library has found."""

from tabs.picker import plain
from tabs.picture_files import downloadable, served

from softvq_lab.data.images import to_pil
from softvq_lab.explore.codewords import (
    Edit,
    attention,
    codeword_name,
    codewords_alone,
    has_weights,
    heatmap,
    overlay,
    read_weights,
    weight_entropy,
    what_instead,
    where_used,
)
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.session import chosen_image, enlarge
from softvq_lab.explore.token_views import bars, formula, held_by_token, logits

SIDE = 240  # pixels of a picture, about


def edit_of(t, tau_factor, sharp, edits: str, swapped=(), ablated=()) -> Edit:
    "The changes that the controls ask for; only tokens with weights can have other weights."
    weighted = (
        (tau_factor, bool(sharp), read_weights(edits, t)) if has_weights(t) else (1.0, False, {})
    )
    return Edit(*weighted, swapped, ablated)


def rows_of(t, token: int, top) -> list[list]:
    "The table of weights."
    return [[named(t, token, k), w] for k, w in top]


def differs(typed, was: float) -> bool:
    "Was another weight typed?"
    try:
        return not abs(float(typed) - was) < 1e-9
    except (TypeError, ValueError):
        return True


def numbers(values) -> tuple[int, ...]:
    return tuple(int(v) for v in values or [] if str(v).isdecimal())


def named(t, token: int, codeword: int) -> str:
    "What a codeword of the codebook of `token` is called."
    codebooks = t.quantizer.codebooks
    return codeword_name(token // (t.tokens // codebooks), codeword, codebooks)


def describe_token(t, weights, token: int, tau_factor: float) -> str:
    "How mixed the token is, and at which temperature."
    if weights is None:
        return plain(what_instead(t))
    entropy, effective = weight_entropy(weights)
    tau = f"temperature x {tau_factor:g}"
    if type(t.quantizer).__name__ != "GMMVQ":
        tau = f"tau {t.quantizer.tau:.3g} x {tau_factor:g} = {t.quantizer.tau * tau_factor:.3g}"
    return (
        f"**Token {token}**: entropy {entropy[token]:.2f} nats, "
        f"{effective[token]:.1f} effective codewords (all tokens: {effective.mean():.1f}); {tau}"
    )


def describe_changes(figures: dict) -> str:
    "PSNR before and after the changes."
    before, after = figures["before"], figures["after"]
    if figures["between"] >= 100:
        return f"PSNR {before:.1f} dB; nothing is changed"
    return f"PSNR {before:.1f} dB, with the changes **{after:.1f} dB** ({after - before:+.1f})"


def weight_map(t, weights, token: int):
    "The map of tokens and codewords; None where tokens have no weights."
    if weights is None:
        return None
    return adapt(heatmap(weights, t.quantizer.codebooks, max(24, min(48, t.tokens)), token))


def alone_tiles(loaded, token: int, q, top: list[int]) -> list[tuple[str, str]]:
    "The picture of all mean tokens, and each codeword of `top` alone, with its weight in `q`."
    mean, each = codewords_alone(loaded, token, top)
    captions = ["mean", *(f"{named(loaded.tokenizer, token, k)}: {q[k]:.0%}" for k in top)]
    return [(served(enlarge(p, 96)), c) for p, c in zip([mean, *each], captions, strict=True)]


def attention_tiles(loaded, x, token: int) -> list[tuple[str, str]]:
    "Where the last blocks, at most six, looked for the token."
    blocks = list(enumerate(attention(loaded, x)[:, token], start=1))[-6:]
    return [(served(overlay(x, m, 160)), f"block {i}: {m.sum():.0%}") for i, m in blocks]


def users_of(loaded, token: int, codeword: int):
    "The held-out images that use a codeword most, under a sentence that says so."
    name, found = named(loaded.tokenizer, token, codeword), where_used(loaded, token, codeword, 6)
    return f"Held-out images that use codeword {name} most, with its weight and the token", [
        (served(to_pil(loaded.images.heldout[i][0])), f"{w:.0%} t{at}") for i, at, w in found
    ]


def names_of(t, token: int) -> list[str]:
    "What the codewords of the codebook of `token` are called."
    return [named(t, token, k) for k in range(t.config.codebook_size)]


def formula_text(t, result: dict, token: int, tau_factor: float, edit: Edit) -> str:
    "The token of `edit_tokens` as a sum with its numbers; '' where tokens have no weights."
    if result["weights"] is None:
        return ""
    q = result["weights"][token]
    if edit.sharp:
        return f"z = c<sub>{named(t, token, int(q.argmax()))}</sub>: all weight on the strongest"
    s, tau = logits(t.quantizer, result["z_hat"], token, tau_factor)
    text = formula(s, tau, q, names_of(t, token))
    return text + "; your weights take the place of these" * (token in edit.weights)


def weight_bars(t, result: dict, token: int):
    "The weights of a token as bars; None where there are none."
    if result["weights"] is None:
        return None
    q, own = result["weights"][token], result["own"][token]
    return adapt(bars(q, own, names_of(t, token)))


def held_picture(loaded, key: str, token: int):
    "The picture under the map of what one token holds; None without held-out images."
    if not loaded.heldout_count:
        return None
    return overlay(chosen_image(loaded, key), held_by_token(loaded, key, token), SIDE)


def donor_picture(loaded, donor: int):
    if not 0 <= donor < loaded.heldout_count:
        return None
    return downloadable(enlarge(to_pil(chosen_image(loaded, f"heldout:{donor}")), 120))
