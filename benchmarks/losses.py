"""What the paper's losses do to a tokenizer of digits, at equal steps.

    python benchmarks/losses.py [RUNS] [SEED ...]

Trains, for each seed, one tokenizer by squared error alone and one with perceptual loss, alignment
and discriminator on the reference network (seed 0) as well, in RUNS/loss-NAME-SEED (finished runs
are kept, killed ones go on),
and prints a table. Judge: the reference network of seed 1, which no loss has seen; Fréchet distance
of held-out reconstructions to their originals.
"""

import statistics

from measure import runs_parser

from softvq_lab.evaluation.extractors import make_extractor
from softvq_lab.evaluation.fidelity import frechet_distance
from softvq_lab.evaluation.image_metrics import reconstruct_split
from softvq_lab.hub.models import load_tokenizer
from softvq_lab.runs import Run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.train import images_of, prepare, train_here

EVERYTHING = dict(
    percep="reference",
    align="reference",
    adv="reference",
    adv_lr=1e-3,
    adv_start=100,
    consistency=0.0,
)  # consistency 4.0 holds so small a discriminator still (nbs/training/03_adversarial.ipynb)
VARIANTS = {"plain": {}, "all": EVERYTHING}


def main():
    p = runs_parser(__doc__)
    p.add_argument(
        "seeds", nargs="*", default=[0, 1, 2], type=int, metavar="SEED", help="default: 0 1 2"
    )
    a = p.parse_args()
    rows, root = {}, a.runs
    for seed in a.seeds:
        for name, settings in VARIANTS.items():
            config = parse(
                TrainConfig,
                dict(tokens=32, steps=600, seed=seed, resume=True, tracker="none", **settings),
            )
            images = images_of(config)
            run = prepare(config, root / f"loss-{name}-{seed}", images)
            if run.status["state"] != "done":
                train_here(run, images)
            result = reconstruct_split(
                load_tokenizer(Run(run.path).path),
                images,
                extractor=make_extractor("reference", images),
            )
            rows[name, seed] = (
                frechet_distance(result["features_reconstruction"], result["features_original"]),
                result["psnr"].mean().item(),
                result["ssim"].mean().item(),
            )
    print(
        "| losses | seed | reference Fréchet distance | PSNR (dB) | SSIM |\n| --- | --- | --- | "
        "--- | --- |"
    )
    for (name, seed), (f, p, s) in rows.items():
        print(f"| {name} | {seed} | {f:.4f} | {p:.2f} | {s:.3f} |")
    for name in VARIANTS:
        print(
            f"| {name} | mean | "
            f"{statistics.fmean(v[0] for (n, _), v in rows.items() if n == name):.4f} | "
            f"{statistics.fmean(v[1] for (n, _), v in rows.items() if n == name):.2f} | |"
        )


if __name__ == "__main__":
    main()
