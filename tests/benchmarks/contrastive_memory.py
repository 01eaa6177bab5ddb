"""Peak memory and time of the contrastive loss against the plain one, each in a process of its own.

    python tests/benchmarks/contrastive_memory.py --batch 8192 --width 512 [--device cuda] [--loss sigmoid]

Prints one JSON line: bytes above the inputs (CPU: growth of the peak resident set; CUDA: peak allocation) and seconds
of forward and backward, for both, and their ratios.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loss", choices=("infonce", "sigmoid"), default="infonce")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("plain", "chunked"))
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    results = {name: [] for name in ("plain", "chunked")}
    for _ in range(arguments.repeats):
        for name, runs in results.items():
            done = subprocess.run(
                [sys.executable, *sys.argv, "--only", name], capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    median = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("bytes", "seconds", "loss")}
        for name, runs in results.items()
    }
    ratios = {key: median["chunked"][key] / median["plain"][key] for key in ("bytes", "seconds")}
    print(json.dumps({**vars(arguments), **median, "chunked/plain": ratios}))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    from mmalign.ops import info_nce, sigmoid_pairs

    cuda = arguments.device == "cuda"
    torch.manual_seed(0)
    x, y = (
        F.normalize(torch.randn(arguments.batch, arguments.width, device=arguments.device), dim=1).requires_grad_()
        for _ in range(2)
    )
    log_scale = torch.tensor(3.0, device=arguments.device, requires_grad=True)
    bias = torch.tensor(-10.0, device=arguments.device, requires_grad=True)
    target = torch.arange(arguments.batch, device=arguments.device)

    def plain() -> torch.Tensor:
        z = log_scale.exp() * x @ y.T
        if arguments.loss == "infonce":
            return (F.cross_entropy(z, target) + F.cross_entropy(z.T, target)) / 2
        sign = 2 * torch.eye(len(x), device=z.device) - 1
        return -F.logsigmoid(sign * (z + bias)).sum() / len(x)

    def chunked() -> torch.Tensor:
        scale = log_scale.exp().expand(len(x))
        ids = target[:, None]
        if arguments.loss == "infonce":
            return info_nce(x, y, scale, ids)[0] / len(x)
        return sigmoid_pairs(x, y, scale, bias.expand(len(x)), ids)[0] / len(x)

    def peak() -> int:
        return torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    (x[:64] @ y[:64].T).sum().backward()  # kernels and gradients exist before the count starts
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before, began = peak(), time.perf_counter()
    loss = (plain if arguments.only == "plain" else chunked)()
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
    return {"bytes": peak() - before, "seconds": time.perf_counter() - began, "loss": float(loss)}


if __name__ == "__main__":
    main()
