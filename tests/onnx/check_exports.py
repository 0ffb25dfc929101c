"""Runs exported models through ONNX's checker and ONNX Runtime.

    BERTHA_ONNX_EXPORTS=OUT cargo test -p bertha-import --test onnx_export
    BERTHA_ONNX_EXPORTS=OUT cargo test -p bertha-surgeon
    python tests/onnx/check_exports.py OUT

For each NAME.onnx in OUT, the inputs NAME.N.inputs.npz must give the outputs NAME.N.outputs.npz, in which sequences lie
one after another without padding. The largest difference may be 1e-5 of the largest expected value.
"""

import argparse
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

TOLERANCE = 1e-5


def check(path):
    """The worst relative difference over all inputs and outputs."""
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    worst, count = 0.0, 0
    for inputs_path in sorted(path.parent.glob(f"{path.stem}.*.inputs.npz")):
        inputs = {name: array for name, array in np.load(inputs_path).items() if name in wanted}
        expected = np.load(str(inputs_path).replace(".inputs.", ".outputs."))
        found = dict(zip(expected.files, session.run(expected.files, inputs)))
        for name, array in expected.items():
            mask, tokens = inputs.get("attention_mask"), found[name]
            if mask is not None and tokens.shape[:2] == mask.shape and array.shape[0] == mask.sum():
                tokens = tokens[mask == 1]
            if tokens.shape != array.shape:
                sys.exit(f"{path.name}: output {name} is {tokens.shape} instead of {array.shape}")
            difference = np.abs(tokens.astype(np.float64) - array).max() / max(np.abs(array).max(), 1e-30)
            if not difference <= TOLERANCE:
                sys.exit(f"{path.name}, {inputs_path.name}: output {name} differs by {difference:.2e}")
            worst, count = max(worst, difference), count + 1
    return worst, count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    files = sorted(parser.parse_args().folder.glob("*.onnx"))
    if not files:
        sys.exit("there is no .onnx file in the folder")
    results = [check(path) for path in files]
    worst, count = max(worst for worst, _ in results), sum(count for _, count in results)
    print(f"{len(files)} files, {count} outputs: the largest relative difference is {worst:.2e}")


if __name__ == "__main__":
    main()
