"""The error of crates/bertha-cuda/kernels/activation.cuh, measured on the host.

    python bench/gpu/activation_error.py

Compiles the very source of the device for the host (device qualifiers defined away, the two approximate instructions
replaced by exact ones that are then wrong by their documented bound in the worse direction) and compares with f64 over
every 997th f32 value of [-20, 20]. Needs a C++ compiler, no GPU. Exits with 1 if a bound is broken.
"""

import pathlib
import subprocess
import sys
import tempfile

KERNELS = pathlib.Path(__file__).parents[2] / "crates" / "bertha-cuda" / "kernels"

PROGRAM = r"""
#include <cmath>
#include <math.h>
#include <cstdio>
#include <cstdint>
#include <cstring>
#define __device__
#define __forceinline__ inline
static float g_bias;  // relative error put on the approximate instructions
inline float exp2_approx(float x) { return (float)(std::exp2((double)x) * (1 + g_bias * 0x1p-22)); }
inline float reciprocal_approx(float x) { return (float)(1 / (double)x * (1 + g_bias * 0x1p-24)); }
#include "activation.cuh"
static double want(int which, double x) {
    if (which == 0) return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    if (which == 1) return x / (1 + std::exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    return x / (1 + std::exp(-x));
}
static float got(int which, float x) { return which == 0 ? gelu_erf(x) : which == 1 ? gelu_tanh(x) : silu(x); }
int main() {
    for (int which = 0; which < 3; which++) {
        double absolute = 0, scaled = 0, relative = 0;
        for (int b = -1; b <= 1; b++) {
            g_bias = (float)b;
            for (uint32_t i = 0; i <= 0x41a00000u; i += 997) {
                for (int sign = 0; sign < 2; sign++) {
                    uint32_t bits = i | (uint32_t)sign << 31;
                    float x;
                    std::memcpy(&x, &bits, 4);
                    double w = want(which, x), e = std::fabs((double)got(which, x) - w);
                    float f = std::fabs((float)w);
                    double ulp = (double)std::nextafterf(f, 3e38f) - f;
                    absolute = std::fmax(absolute, x <= 1 ? e : 0);
                    scaled = std::fmax(scaled, std::fmin(e / 1e-7, e / (2 * ulp)));
                    if (std::fabs(w) > 6e-5) relative = std::fmax(relative, e / std::fabs(w));
                }
            }
        }
        std::printf("%d %g %g %g\n", which, absolute, scaled, relative);
    }
}
"""


def measure(element):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "main.cc"
        source.write_text(PROGRAM)
        program = pathlib.Path(folder) / "main"
        # Without contraction: a compiler may fuse what the source does not, on the host as on the device.
        subprocess.run(
            ["c++", "-O2", "-mfma", "-ffp-contract=off", "-I", KERNELS, f"-D{element}", source, "-o", program], check=True
        )
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return [[float(x) for x in line.split()[1:]] for line in lines]


def main():
    broken = False
    for element in ["ELEMENT_F32", "ELEMENT_F16"]:
        for name, (absolute, scaled, relative) in zip(["gelu_erf", "gelu_tanh", "silu"], measure(element)):
            # f32: two units in the last place or 1e-7. 16 bits: a quarter of f16's rounding step (2^-11).
            good = scaled <= 1 if element == "ELEMENT_F32" else relative < 2**-13
            broken |= not good
            print(
                f"{element:12} {name:10} absolute (x <= 1) {absolute:.2e}, against min(1e-7, 2 ulp) {scaled:5.2f}, "
                f"relative where |y| > 6e-5 {relative:.1e} {'ok' if good else 'BROKEN'}"
            )
    sys.exit(broken)


if __name__ == "__main__":
    main()
