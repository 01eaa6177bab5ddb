"""Make the embedded `gpt-mini` from a trained model: weights in half precision, and the files that transformers loads.

python export.py runs/stage2/model --out ../../plugins/mmalign_lm/gpt_mini
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    exact = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.half().save_pretrained(arguments.out)
    AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.out)
    lost = max(float((tensor - model.state_dict()[name].float()).abs().max()) for name, tensor in exact.items())
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {size:,} bytes; largest rounding {lost:.1e}")


if __name__ == "__main__":
    main()
