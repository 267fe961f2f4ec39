"""What exactness costs: samples a second against a plain float loop of the same formula, and both errors.

    python tests/bench/bench_delta_v.py [--short]

The errors are in units of the last place, against arithmetic of sixty digits: over the given vectors, over
random samples of a node, and over random extremes where the result is a float. The plain loop is the formula
as anybody would write it, with the same clamps. Budget: at most 4 units; 10,000 samples a second, which is
10,000 times what a node with 100 sessions takes in its shortest interval of one second.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Context, Decimal, localcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.delta_v import INERTIA_MIN, Formula, Parameters, Sample, Total, integrate

VECTORS = Path(__file__).parents[1] / "data/vectors/delta_v.json"
ULP_BUDGET, RATE_BUDGET = 4.0, 10_000.0
ROUNDS = 5
SEED = 20261120

Case = tuple[Parameters, list[Sample]]


def plain(parameters: Parameters, samples: Sequence[Sample]) -> float:
    """The formula in floating point."""
    alpha, v0 = parameters.alpha, parameters.v0
    total = 0.0
    for power, load, velocity, inertia, dt in samples:
        low = math.exp(max(-700.0, min(700.0, -alpha * load * load)))
        high = math.exp(max(-700.0, min(700.0, 2 * alpha * v0 * velocity)))
        total += max(power, 0.0) * low * high / max(inertia, INERTIA_MIN) * max(dt, 0.0)
    return parameters.isp * parameters.eta * math.exp(-alpha * v0 * v0) * total


def exact(parameters: Parameters, samples: Sequence[Sample]) -> Decimal:
    """The same with sixty digits."""
    alpha, v0, bound = Decimal(parameters.alpha), Decimal(parameters.v0), Decimal(700)
    total = Decimal(0)
    for sample in samples:
        low = max(-bound, min(bound, -alpha * Decimal(sample.load) ** 2))
        high = max(-bound, min(bound, 2 * alpha * v0 * Decimal(sample.velocity)))
        total += Decimal(sample.power) * low.exp() * high.exp() / Decimal(sample.inertia) * Decimal(sample.dt)
    return Decimal(parameters.isp) * Decimal(parameters.eta) * (-alpha * v0 * v0).exp() * total


def vectors() -> Iterator[Case]:
    """Those of the file that hold numbers only and have a meaning."""
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        names = ("p_input", "workload", "velocity", "inertia", "dt")
        samples = [
            Sample(*(float(item[name]) for name in names))
            for item in vector["samples"]
            for _ in range(item["repeat"])
        ]
        good = all(math.isfinite(value) for sample in samples for value in sample)
        if (
            good
            and vector["params"]["alpha"] >= 0
            and min((min(s.power, s.dt) for s in samples), default=0) >= 0
        ):
            yield Parameters(**vector["params"]), samples


def of_a_node(draw: random.Random, count: int) -> list[Sample]:
    """What meters of nodes say."""
    return [
        Sample(draw.uniform(5, 400), draw.uniform(0, 2), draw.uniform(0, 10), draw.uniform(0.3, 64), 60.0)
        for _ in range(count)
    ]


def extremes(draw: random.Random, count: int) -> Iterator[Case]:
    """Few samples each, far apart in size."""

    def scaled(low: float, high: float) -> float:
        return float(10.0 ** draw.uniform(low, high))

    for _ in range(count):
        parameters = Parameters(
            isp=scaled(-3, 6), eta=draw.random(), alpha=scaled(-3, 1), v0=draw.uniform(-10, 30)
        )
        yield (
            parameters,
            [
                Sample(
                    scaled(-6, 6),
                    draw.uniform(-40, 40),
                    draw.uniform(-100, 100),
                    scaled(-6, 6),
                    scaled(-3, 5),
                )
                for _ in range(draw.choice((1, 2, 5)))
            ],
        )


def units_off(value: float, expected: Decimal) -> float:
    """How far from the truth, in units of its last place."""
    if not math.isfinite(value):
        return math.inf
    return float(abs(Decimal(value) - expected) / Decimal(math.ulp(float(expected))))


def errors(cases: Sequence[Case]) -> tuple[float, float, int]:
    """The largest error of ours and of the plain loop, over how many cases."""
    ours = theirs = 0.0
    counted = 0
    for parameters, samples in cases:
        with localcontext(Context(prec=60, Emax=10**9, Emin=-(10**9))):
            expected = exact(parameters, samples)
            if expected == 0 or expected > Decimal(sys.float_info.max) * Decimal("0.999999"):
                continue
            counted += 1
            ours = max(ours, units_off(integrate(Formula(parameters), Total(), samples).value, expected))
            theirs = max(theirs, units_off(_plain_or_inf(parameters, samples), expected))
    return ours, theirs, counted


def _plain_or_inf(parameters: Parameters, samples: Sequence[Sample]) -> float:
    try:
        return plain(parameters, samples)
    except OverflowError:
        return math.inf


def rate(work: Callable[[], object], samples: int) -> float:
    """Samples a second, the best of a few rounds."""
    best = math.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return samples / best


def main() -> int:
    """Prints the figures; a missed budget is told, not failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="fewer samples")
    short = parser.parse_args().short
    draw = random.Random(SEED)
    parameters, samples = Parameters(), of_a_node(draw, 5_000 if short else 50_000)
    formula = Formula(parameters)
    ours = rate(lambda: integrate(formula, Total(), samples), len(samples))
    one = samples[:1]
    single = rate(lambda: [integrate(formula, Total(), one) for _ in range(2_000)], 2_000)
    theirs = rate(lambda: plain(parameters, samples), len(samples))
    verdict = "PASS" if single >= RATE_BUDGET else "MISS"
    print(f"samples a second: {ours:,.0f} in a row, {single:,.0f} one by one, plain floats {theirs:,.0f}")
    print(f"  {theirs / ours:.2f} x the time of plain floats; budget {RATE_BUDGET:,.0f}: {verdict}")
    groups = {
        "the given vectors": list(vectors()),
        "a node's samples": [(parameters, [sample]) for sample in samples[: 1_000 if short else 20_000]],
        "an hour of a node": [
            (parameters, samples[n : n + 60]) for n in range(0, 600 if short else 12_000, 60)
        ],
        "extremes": list(extremes(draw, 1_000 if short else 20_000)),
    }
    print("largest error in units of the last place")
    for name, cases in groups.items():
        worst, plainly, counted = errors(cases)
        verdict = "PASS" if worst <= ULP_BUDGET else "MISS"
        told = f"{worst:6.2f}  plain {plainly:10.3g}  in {counted:6d} sums"
        print(f"  {name:<18}{told}  budget {ULP_BUDGET:g}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
